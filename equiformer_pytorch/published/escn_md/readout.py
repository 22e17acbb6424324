"""What heads read out of the features of a batch, each structure's from the head of its dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.inputs.structures import Structures
from equiformer_pytorch.published.escn_md.heads import EnergyHead, OfDatasets, StressHead
from equiformer_pytorch.published.escn_md.system import Systems, atoms_of

# Of each property the head that gives it, for each known dataset; None where none does.
Chosen = dict[str, list[str | None]]


class Batch(NamedTuple):
    """Structures, what is known of them, and the datasets that indices mean."""

    structures: Structures
    systems: Systems
    known: Sequence[str]

    def by_dataset(self, values: Sequence[float] | Sequence[bool] | Sequence[int], *, atoms: bool = False) -> Tensor:
        """Of each structure, or atom, the value of its dataset."""
        found = torch.tensor(values, device=self.systems.dataset.device).index_select(0, self.systems.dataset)
        return found.index_select(0, self.structures.batch) if atoms else found


def read(
    property: str, heads: nn.ModuleDict, chosen: Chosen, x: Float[Tensor, "atoms components channels"], batch: Batch
) -> Float[Tensor, "members *rest"]:
    """A property of atoms (energies, forces) or structures (stress).

    Raises:
        ValueError: no head gives it for the dataset of a structure.
    """
    wanted = chosen[property]
    if None in wanted and checks.looks_at_values():
        without = [name for name, head in zip(batch.known, wanted, strict=True) if head is None]
        wrong = ValueError(f"dataset: no head gives the {property} of {', '.join(without)}")
        checks.require(batch.by_dataset([head is not None for head in wanted]).all(), lambda: wrong)
    names = [name for name in dict.fromkeys(wanted) if name is not None]
    found, *others = (_of_head(heads[name], x, batch) for name in names)
    for name, value in zip(names[1:], others, strict=True):
        mine = batch.by_dataset([head == name for head in wanted], atoms=property != "stress")
        found = torch.where(mine.view(-1, *(1,) * (value.ndim - 1)), value, found)
    return found


def _of_head(head: nn.Module, x: Float[Tensor, "atoms components channels"], batch: Batch) -> Tensor:
    """What one head gives for all."""
    expert = None
    if isinstance(head, OfDatasets):
        if head.expert:
            expert = batch.by_dataset([head.expert.get(name, 0) for name in batch.known], atoms=True)
        head = head.head
    if isinstance(head, EnergyHead):
        return head(x, expert)
    return head(x, expert, batch.structures.batch, batch.structures.count) if isinstance(head, StressHead) else head(x)


def summed(energies: Float[Tensor, " atoms"], batch: Batch) -> Float64[Tensor, " structures"]:
    """Energies of structures, in float64."""
    return energies.new_zeros(batch.structures.count, dtype=torch.float64).index_add(
        0, batch.structures.batch, energies.double()
    )


def divisors(heads: nn.ModuleDict, chosen: Chosen, batch: Batch) -> Float64[Tensor, " structures"] | None:
    """What energies are yet to be divided by: numbers of atoms, where a head has ``reduce="mean"``; None for ones. Not
    part of the sum, since forces and stress are those of the sum, as published."""
    means = []
    for name in chosen.get("energy", ()):
        head = None if name is None else getattr(heads[name], "head", heads[name])
        means.append(head is not None and cast(EnergyHead, head).mean)
    if not any(means):
        return None
    counts = atoms_of(batch.structures.batch, batch.structures.count, torch.float64)
    return torch.where(batch.by_dataset(means), counts, 1.0)
