"""What is read out of the features: energies, and forces and stress where they are no gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.published.escn_md.arguments import ESCNMDArguments, check_reduce, mapping
from equiformer_pytorch.published.escn_md.experts import Experts
from equiformer_pytorch.published.escn_md.system import atoms_of
from equiformer_pytorch.published.heads import symmetric_tensors
from equiformer_pytorch.published.linear import DegreeLinear

SINGLE, MIXED = "DatasetSpecificSingleHeadWrapper", "DatasetSpecificMoEWrapper"
ENERGIES = ("MLP_EFS_Head", "MLP_Energy_Head", "Linear_Energy_Head")
FORCES, STRESS = "Linear_Force_Head", "MLP_Stress_Head"
# What each head may be told, beside its kind.
OPTIONS = {
    "MLP_EFS_Head": ("reduce", "prefix", "wrap_property"),
    "MLP_Energy_Head": ("reduce", "prefix", "wrap_property"),
    "Linear_Energy_Head": ("reduce",),
    FORCES: (),
    STRESS: ("reduce",),
    SINGLE: ("head_cls", "head_kwargs", "dataset_names", "wrap_property"),
    MIXED: ("head_cls", "head_kwargs", "dataset_names", "dataset_mapping", "wrap_property"),
}


def kind_of(name: str, config: Mapping[str, Any], entry: str = "module") -> str:
    """Which head a configuration means: the last part of the name of fairchem's class.

    Raises:
        ValueError: none that we know, or with arguments that it does not take.
    """
    given = config.get(entry)
    kind = str(given).rpartition(".")[2]
    if kind not in OPTIONS:
        raise ValueError(f"heads[{name!r}][{entry!r}] must be one of {', '.join(OPTIONS)}; got {given!r}")
    return kind


def check_options(name: str, kind: str, options: Mapping[str, Any]) -> None:
    """ValueError for what a head does not take."""
    strange = sorted(options.keys() - {*OPTIONS[kind], "module"})
    if strange:
        raise ValueError(f"heads[{name!r}]: {kind} takes {', '.join(OPTIONS[kind]) or 'nothing'}; got {strange}")


class EnergyHead(nn.Module):
    r"""Energies of atoms: a network of three linear maps of the invariants, or one linear map.

    Args:
        experts: of each linear map there are so many, of which each atom uses one; 0 for one.
    """

    gives = "energy"

    def __init__(self, channels: int, hidden: int, experts: int, *, one_map: bool, reduce: str = "sum") -> None:
        super().__init__()
        check_reduce(reduce)
        self.mean = reduce == "mean"
        widths = (channels, 1) if one_map else (channels, hidden, hidden, 1)
        self.energy_block = _map(channels, 1, experts) if one_map else _network(widths, experts)

    def forward(
        self, x: Float[Tensor, "atoms components channels"], expert: Int[Tensor, " atoms"] | None
    ) -> Float[Tensor, " atoms"]:
        """In the dtype of the features; sums over atoms are to be taken in float64."""
        return _through(self.energy_block, x[:, 0], expert).squeeze(-1)


class ForceHead(nn.Module):
    """Forces: a linear map of the vectors. (Its share of the invariants, as published, is never read.)"""

    gives = "forces"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = DegreeLinear(channels, 1, 1)

    def forward(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms 3"]:
        return F.linear(x[:, 1:4], self.linear.weight[1]).squeeze(-1)


class StressHead(ExactConstants):
    r"""Stress of structures: :math:`\tfrac{a}{\sqrt3} 1 + \sum_k b_k S_k` with a from a network of the invariants, b
    from the features of degree 2, means (or sums) over atoms, and S_k the symmetric matrices without trace."""

    gives = "stress"

    def __init__(self, channels: int, hidden: int, experts: int, *, reduce: str = "mean") -> None:
        super().__init__()
        check_reduce(reduce)
        self.mean = reduce == "mean"
        self.scalar_block = _network((channels, hidden, hidden, 1), experts)
        self.l2_linear = DegreeLinear(channels, 1, 2)
        self.constant("tensors", symmetric_tensors)

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        expert: Int[Tensor, " atoms"] | None,
        batch: Int[Tensor, " atoms"],
        structures: int,
    ) -> Float[Tensor, "structures 9"]:
        isotropic = _through(self.scalar_block, x[:, 0], expert)
        traceless = F.linear(x[:, 4:9], self.l2_linear.weight[2]).squeeze(-1)
        parts = torch.cat((isotropic, traceless), dim=1)
        sums = parts.new_zeros(structures, 6, dtype=torch.float64).index_add(0, batch, parts.double())
        if self.mean:
            sums = sums / atoms_of(batch, structures, sums.dtype)[:, None]
        tensors = self.cast("tensors", x.dtype)
        return sums.to(x.dtype) @ torch.cat((tensors[:1], tensors[4:]))


class OfDatasets(nn.Module):
    """A head for several datasets, under the name that fairchem's wrappers have for it.

    Args:
        names: of the datasets, sorted.
        expert: which expert each of them uses, by name; empty where they share one head.
    """

    def __init__(self, head: nn.Module, names: Sequence[str], expert: Mapping[str, int]) -> None:
        super().__init__()
        self.head, self.names, self.expert = head, tuple(names), dict(expert)

    @property
    def gives(self) -> str:
        """The property."""
        return str(self.head.gives)


def build_head(name: str, config: Mapping[str, Any], given: ESCNMDArguments) -> nn.Module:
    """The head of a configuration as fairchem has it.

    Raises:
        ValueError: naming the head and what does not fit.
    """
    kind = kind_of(name, config)
    check_options(name, kind, config)
    if kind not in (SINGLE, MIXED):
        return _plain_head(name, kind, {**config}, given, 0)
    inner, options = kind_of(name, config, "head_cls"), dict(config.get("head_kwargs") or {})
    if inner in (SINGLE, MIXED):
        raise ValueError(f"heads[{name!r}]['head_cls'] must be a head, not a wrapper of one; got {inner}")
    check_options(name, inner, options)
    mapped = mapping(f"heads[{name!r}]: dataset", config.get("dataset_names"), config.get("dataset_mapping"))
    names, targets = sorted(mapped), sorted(set(mapped.values()))
    if kind == SINGLE:
        return OfDatasets(_plain_head(name, inner, options, given, 0), names, {})
    expert = {dataset: targets.index(mapped[dataset]) for dataset in names}
    return OfDatasets(_plain_head(name, inner, options, given, len(names)), names, expert)


def _plain_head(
    name: str, kind: str, options: Mapping[str, Any], given: ESCNMDArguments, experts: int
) -> EnergyHead | ForceHead | StressHead:
    channels, hidden = given.sphere_channels, given.hidden_channels
    if kind == STRESS and given.lmax < 2:
        raise ValueError(f"heads[{name!r}]: a stress needs lmax of at least 2, got {given.lmax}")
    if kind == FORCES:
        return ForceHead(channels)
    if kind == STRESS:
        return StressHead(channels, hidden, experts, reduce=options.get("reduce", "mean"))
    if kind == "MLP_Energy_Head" and not (given.direct_forces or given.direct_stress):
        gradients = given.regress_forces or given.regress_stress
        if gradients:
            raise ValueError(f"heads[{name!r}]: MLP_Energy_Head is for direct_forces; MLP_EFS_Head gives gradients")
    return EnergyHead(
        channels, hidden, experts, one_map=kind == "Linear_Energy_Head", reduce=options.get("reduce", "sum")
    )


def _map(channels_in: int, channels_out: int, experts: int) -> nn.Module:
    return Experts(experts, channels_in, channels_out, bias=True) if experts else nn.Linear(channels_in, channels_out)


def _network(widths: Sequence[int], experts: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(len(widths) - 1):
        layers += [nn.SiLU()] * (index > 0) + [_map(widths[index], widths[index + 1], experts)]
    return nn.Sequential(*layers)


def _through(block: nn.Module, x: Float[Tensor, "atoms channels"], expert: Tensor | None) -> Float[Tensor, "atoms out"]:
    """Each atom through the maps of its expert, where there are several."""
    for layer in block if isinstance(block, nn.Sequential) else (block,):
        if not isinstance(layer, Experts):
            x = layer(x)
        elif expert is not None:
            of_all = torch.einsum("ai,eoi->aeo", x, layer.weights)
            of_one = of_all.gather(1, expert[:, None, None].expand(-1, 1, of_all.shape[2])).squeeze(1)
            x = of_one if layer.bias is None else of_one + layer.bias
    return x
