"""The official Equiformer, EquiformerV2 and EquiformerV3, from folders that the caller names.

Needs e3nn. Their own files run unchanged; modules of ocpmodels, fairchem, torch_cluster, torch_scatter and
torch_geometric that they import, and that we need nothing of but a few lines, are stood in for.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class _Registry:
    @staticmethod
    def register_model(_: str):
        return lambda model: model


class _Smearing(nn.Module):
    r"""Bumps :math:`\exp(-z_k^2/2)` with :math:`z_k = (d - μ_k)/(w h)`, centred on a line of μ_k at spacing h.

    The official code asks for `num_output`, and its files have the centres as ``offset``.
    """

    offset: Tensor

    def __init__(self, first: float, last: float, centres: int, relative_width: float) -> None:
        super().__init__()
        self.num_output = centres
        self.register_buffer("offset", torch.linspace(first, last, centres))
        self.deviation = relative_width * (last - first) / (centres - 1)

    def forward(self, distance: Tensor) -> Tensor:
        z = (distance.reshape(-1).unsqueeze(1) - self.offset) / self.deviation
        return z.square().mul(-0.5).exp()


class _Bessel(nn.Module):
    r"""GemNet's :math:`\sqrt{2/c^3}\, u(x) \sin(ω_k x)/x` of :math:`x = d/c`, where ω_k is learned from kπ on.

    :math:`u(x) = 1 - 21 x^5 + 35 x^6 - 15 x^7` below the cutoff c, and zero beyond.
    """

    def __init__(self, functions: int, cutoff: float, rbf: dict[str, str]) -> None:
        if rbf != {"name": "spherical_bessel"}:
            raise ValueError(f"rbf is {rbf}: there are spherical Bessel functions alone")
        super().__init__()
        self.cutoff = cutoff
        self.frequencies = nn.Parameter(math.pi * torch.arange(1.0, functions + 1))

    def forward(self, distance: Tensor) -> Tensor:
        x = distance[:, None] / self.cutoff
        envelope = torch.where(x < 1, 1 + x**5 * (x * (35 - 15 * x) - 21), 0)
        return math.sqrt(2 / self.cutoff**3) * envelope * (self.frequencies * x).sin() / x


class _OfAtoms(nn.Module):
    """In place of a sum over the atoms of each molecule: what is to be summed."""

    def forward(self, values: Tensor, _: Any, dim: int) -> Tensor:
        return values


class _Model:
    """Takes edges from the data, as both bases do without graphs made on the fly."""

    def generate_graph(self, data: Any, *_: Any, **__: Any):
        senders, receivers = data.edge_index
        cells = data.cell[data.batch[receivers]]
        offsets = (data.cell_offsets.float()[:, None] @ cells.float()).squeeze(1)
        vectors = data.pos[senders] - data.pos[receivers] + offsets
        found = (data.edge_index, vectors.norm(dim=-1), vectors, data.cell_offsets, offsets, None)
        names = ("edge_index", "edge_distance", "edge_distance_vec", "cell_offsets", "offset_distances", "neighbors")
        return SimpleNamespace(**dict(zip(names, found, strict=True))) if self.named_graph else found

    named_graph = False


class _BaseModel(_Model, nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)


class _GraphModelMixin(_Model):
    named_graph = True


def _scatter(src: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None, reduce: str = "sum") -> Tensor:
    shape = [dim_size, *src.shape[1:]]
    spread = index.view(-1, *(1,) * (src.ndim - 1)).expand_as(src)
    name = {"sum": "sum", "max": "amax", "mean": "mean"}[reduce]
    return src.new_zeros(shape).scatter_reduce(0, spread, src, name, include_self=False)


def _softmax(src: Tensor, index: Tensor) -> Tensor:
    count = int(index.max()) + 1 if index.numel() else 0
    out = (src - _scatter(src.detach(), index, 0, count, "max")[index]).exp()
    return out / (_scatter(out, index, 0, count)[index] + 1e-16)


def _glorot(value: Tensor) -> None:
    bound = math.sqrt(6 / sum(value.shape[-2:]))
    nn.init.uniform_(value, -bound, bound)


def _given(_pos: Tensor, r: float, batch: Tensor, max_num_neighbors: int) -> Tensor:
    return batch


def _stand_in(name: str, **members: Any) -> None:
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        module = sys.modules.setdefault(path, ModuleType(path))
        if i > 1:
            setattr(sys.modules[".".join(parts[: i - 1])], parts[i - 1], module)
    for member, value in members.items():
        setattr(sys.modules[name], member, value)


def _stand_ins() -> None:
    for root in ("ocpmodels", "fairchem.core"):
        _stand_in(f"{root}.common.registry", registry=_Registry)
        _stand_in(f"{root}.common.utils", conditional_grad=lambda decorator: decorator)
        _stand_in(f"{root}.models.base", BaseModel=_BaseModel, GraphModelMixin=_GraphModelMixin)
    _stand_in("ocpmodels.models.scn.sampling", CalcSpherePoints=None)
    smearing = ("GaussianSmearing", "LinearSigmoidSmearing", "SigmoidSmearing", "SiLUSmearing")
    _stand_in("ocpmodels.models.scn.smearing", **dict.fromkeys(smearing, _Smearing))
    _stand_in("ocpmodels.models.gemnet.layers.radial_basis", RadialBasis=_Bessel)
    _stand_in("torch_cluster", radius_graph=_given)
    _stand_in("torch_scatter", scatter=_scatter)
    _stand_in("torch_geometric.nn", global_mean_pool=None, global_max_pool=None)
    _stand_in("torch_geometric.nn.inits", glorot=_glorot)
    _stand_in("torch_geometric.utils", softmax=_softmax, scatter=_scatter, segment=None)
    _stand_in("torch_geometric.utils.num_nodes", maybe_num_nodes=lambda index, count: count)


def _load(folder: Path, package: str, module: str) -> ModuleType:
    _stand_ins()
    if not (folder / f"{module}.py").is_file():
        raise FileNotFoundError(f"{folder} has no {module}.py: name the folder of a checkout of the official code")
    root = sys.modules.setdefault(package, ModuleType(package))
    root.__path__ = [str(folder)]
    spec = importlib.util.spec_from_file_location(f"{package}.{module}", folder / f"{module}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} cannot be imported")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def official_v1(checkout: str | Path, name: str, **config: Any) -> nn.Module:
    """The model of that name, of those that the official Equiformer of a checkout has for QM9.

    Takes the edges (sender, receiver) in place of `batch`, and gives the values of atoms which it would sum.
    """
    with torch.serialization.safe_globals([slice]):  # in a file of e3nn 0.4.4, which its import reads
        import e3nn.o3  # noqa: F401
    module = _load(Path(checkout) / "nets", "official_equiformer", "graph_attention_transformer")
    model = getattr(module, name)(**config)
    model.scale_scatter = _OfAtoms()
    return model


def official_v2(checkout: str | Path, **config: Any) -> nn.Module:
    """The official EquiformerV2 of a checkout."""
    module = _load(Path(checkout) / "nets" / "equiformer_v2", "official_equiformer_v2", "equiformer_v2_oc20")
    return module.EquiformerV2_OC20(None, None, None, **config)


def official_v3(checkout: str | Path, **config: Any) -> nn.Module:
    """The official EquiformerV3 of a checkout."""
    folder = Path(checkout) / "experimental" / "models" / "equiformer_v3"
    return _load(folder, "official_equiformer_v3", "equiformer_v3").EquiformerV3_OC(**config)
