"""The arguments of `EquiformerPotential`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from equiformer_pytorch.atoms.embedding import check_input
from equiformer_pytorch.base import checks
from equiformer_pytorch.base.arguments import as_config
from equiformer_pytorch.base.elements import atomic_numbers, different
from equiformer_pytorch.base.potential import Input, Target

ALWAYS = ("energy", "forces", "stress")
# What :meth:`EquiformerPotential.evaluate` hands on of a batch, beside the `inputs`.
INPUTS = ("atomic_numbers", "pos", "batch", "cell", "pbc", "edge_index", "cell_offsets")


@dataclass(frozen=True)
class PotentialArguments:
    """The arguments of :class:`EquiformerPotential`, checked as far as its network does not."""

    _: KW_ONLY
    species: Sequence[int | str]
    cutoff: float = 5.0
    max_neighbors: int | None = None
    dim: int | Sequence[int] = 64
    num_degrees: int = 4
    depth: int = 2
    heads: int | Sequence[int] = 4
    dim_head: int | Sequence[int] = 16
    radial_hidden_dim: int = 64
    radial_basis: str = "log"
    ff_include_htype_norms: bool = True
    l2_dist_attention: bool = True
    reflection_equivariant: bool = True
    targets: Mapping[str, Target | Mapping[str, Any]] | None = None
    inputs: Mapping[str, Input | Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        different("species", self.elements)
        checks.check_number("cutoff", self.cutoff, 0, whole=False, exclusive=True)
        checks.check_number("max_neighbors", self.max_neighbors, 1)
        for name, target in self.all_targets.items():
            if name in ALWAYS:
                raise ValueError(f"targets: {name} is always there")
            if not 0 <= target.degree < self.num_degrees:
                raise ValueError(
                    f"targets[{name!r}] has degree {target.degree}, the model has num_degrees = {self.num_degrees}"
                )
            if target.per not in ("atom", "structure"):
                raise ValueError(f"targets[{name!r}] must be per 'atom' or 'structure', got {target.per!r}")
        for name, given in self.all_inputs.items():
            if name in (*INPUTS, *ALWAYS, *self.all_targets):
                raise ValueError(f"inputs: {name} means something else")
            check_input(name, given)

    @property
    def elements(self) -> list[int]:
        """The species as atomic numbers."""
        return atomic_numbers("species", self.species)

    @property
    def all_targets(self) -> dict[str, Target]:
        """By name."""
        given = (self.targets or {}).items()
        return {name: target if isinstance(target, Target) else Target(**target) for name, target in given}

    @property
    def all_inputs(self) -> dict[str, Input]:
        """By name."""
        given = (self.inputs or {}).items()
        return {name: each if isinstance(each, Input) else Input(**each) for name, each in given}

    @property
    def config(self) -> dict[str, Any]:
        """As plain values; without inputs as 1.2 had it."""
        plain = as_config(self) | {"species": self.elements, "cutoff": float(self.cutoff)}
        plain |= {"targets": as_config(self.all_targets), "inputs": as_config(self.all_inputs)}
        return plain if self.inputs else {name: value for name, value in plain.items() if name != "inputs"}
