"""The arguments of eSCN-MD: those of fairchem's backbones and heads, by their names, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiformer_pytorch.base.arguments import check_choice, check_fields, choice, count, flag, positive, rate
from equiformer_pytorch.base.checks import check_type
from equiformer_pytorch.published.arguments import check_grid, check_orders
from equiformer_pytorch.published.norm import DegreeNorm, MergedNorm, SeparableNorm

NORMS = {"layer_norm": DegreeNorm, "layer_norm_sh": SeparableNorm, "rms_norm_sh": MergedNorm}
EMBEDDINGS = ("pos_emb", "lin_emb", "rand_emb")
DEFAULT_HEADS: Mapping[str, Mapping[str, Any]] = {"energyandforcehead": {"module": "MLP_EFS_Head"}}


@dataclass(frozen=True)
class ESCNMDArguments:
    """The arguments of :class:`~equiformer_pytorch.ESCNMD`, checked."""

    max_num_elements: int = count(100)
    sphere_channels: int = count(128)
    lmax: int = count(2, least=1)
    mmax: int = count(2, least=0)
    grid_resolution: int | None = count(None)
    num_sphere_samples: int = 128
    otf_graph: bool = False
    max_neighbors: int = count(300)
    use_pbc: bool = True
    use_pbc_single: bool = True
    cutoff: float = positive(5.0)
    edge_channels: int = count(128)
    distance_function: str = choice("gaussian", ("gaussian",))
    num_distance_basis: int = count(512, least=2)
    direct_forces: bool = flag(True)
    regress_forces: bool = flag(True)
    direct_stress: bool = flag(False)
    regress_stress: bool = flag(False)
    regress_hessian: bool = False
    hessian_vmap: bool = True
    num_layers: int = count(2)
    hidden_channels: int = count(128)
    norm_type: str = choice("rms_norm_sh", NORMS)
    act_type: str = choice("gate", ("gate", "s2"))
    ff_type: str = choice("grid", ("spectral", "grid"))
    activation_checkpointing: bool = False
    chg_spin_emb_type: str = choice("pos_emb", EMBEDDINGS)
    cs_emb_grad: bool = flag(False)
    dataset_emb_grad: bool = flag(False)
    dataset_list: Sequence[str] | None = None
    dataset_mapping: Mapping[str, str] | None = None
    use_dataset_embedding: bool = flag(True)
    use_cuda_graph_wigner: bool = False
    use_quaternion_wigner: bool = True
    radius_pbc_version: int = 2
    always_use_pbc: bool = True
    charge_balanced_channels: Sequence[int] | None = None
    spin_balanced_channels: Sequence[int] | None = None
    edge_chunk_size: int = 1
    execution_mode: str = "general"
    num_experts: int = count(0, least=0)
    moe_dropout: float = rate(0.0)
    use_global_embedding: bool = False
    use_composition_embedding: bool = flag(False)
    composition_dropout: float = rate(0.0)
    moe_expert_coefficient_norm: str = choice("softmax", ("softmax", "pnorm"))
    layers_moe: Sequence[int] | None = None
    moe_layer_type: str = "pytorch"
    moe_single: bool = False
    moe_type: str = choice("so2", ("so2",))
    model_version: float | str | None = None
    heads: Mapping[str, Mapping[str, Any]] | None = None
    pass_through_head_outputs: bool = flag(False)
    model_id: str | None = None
    supports_single_atoms: bool = False
    task: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_orders(self.lmax, self.mmax, ("lmax", "mmax"))
        grid = None if self.grid_resolution is None else (self.grid_resolution, self.grid_resolution)
        check_grid("grid_resolution, twice,", grid, self.lmax)
        if self.sphere_channels % 2 and self.chg_spin_emb_type == "pos_emb":
            raise ValueError(f"sphere_channels must be even for pos_emb, got {self.sphere_channels}")
        if self.moe_single:
            raise ValueError("moe_single must be False: no published network shares experts between layers")
        for name in ("charge_balanced_channels", "spin_balanced_channels"):
            channels(name, getattr(self, name), self.sphere_channels)
        if any(layer not in range(self.num_layers) for layer in self.layers_moe or ()):
            raise ValueError(f"layers_moe must be of the {self.num_layers} layers, got {list(self.layers_moe or ())}")
        if self.use_dataset_embedding:
            mapping("dataset", self.dataset_list, self.dataset_mapping)
        check_type("task", self.task, str | None, "the name of a dataset")
        check_type("heads", self.heads, Mapping[str, Mapping[str, Any]] | None, "arguments of each head by its name")

    @property
    def grid(self) -> tuple[int, int] | None:
        """Latitudes and longitudes."""
        return None if self.grid_resolution is None else (self.grid_resolution, self.grid_resolution)

    @property
    def datasets(self) -> dict[str, str]:
        """The embedding that each dataset uses; none without."""
        return mapping("dataset", self.dataset_list, self.dataset_mapping) if self.use_dataset_embedding else {}


def channels(name: str, given: Sequence[int] | None, most: int) -> slice:
    """A contiguous range of channels.

    Raises:
        ValueError: it has gaps, or is of channels that there are not.
    """
    chosen = sorted(given or ())
    if not chosen:
        return slice(0, 0)
    if chosen != list(range(chosen[0], chosen[-1] + 1)) or chosen[0] < 0 or chosen[-1] >= most:
        raise ValueError(f"{name} must be neighbouring channels of 0 … {most - 1}, got {list(given or ())}")
    return slice(chosen[0], chosen[-1] + 1)


def mapping(what: str, names: Sequence[str] | None, mapped: Mapping[str, str] | None) -> dict[str, str]:
    """What each dataset is treated as: itself where there is only a list.

    Raises:
        ValueError: there are both list and mapping, or neither; or something is treated as what is not there.
    """
    if (names is None) == (mapped is None):
        raise ValueError(f"{what}_mapping is needed, or a list of names in its stead; got {mapped} and {names}")
    found = {name: name for name in names or ()} if mapped is None else dict(mapped)
    strange = sorted(set(found.values()) - found.keys())
    if strange or not found:
        raise ValueError(f"{what}_mapping must map names onto some of them, got {found}")
    return found


def check_generation(experts: int, model_id: str | None, version: float | str | None) -> None:
    """ValueError for mixtures of experts that do not say of which generation they are: that of UMA 1.0 differs."""
    if experts and not (model_id and model_id.strip()) and str(version) != "1.1":
        raise ValueError(
            "model_id is missing, and model_version is not 1.1: a mixture of experts that says neither is UMA 1.0,"
            " whose network is another one, or unknown"
        )


def check_reduce(value: str) -> None:
    """ValueError unless it is a way to reduce over atoms."""
    check_choice("reduce", value, ("sum", "mean"))
