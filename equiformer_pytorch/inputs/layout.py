"""Where the points of a call lie in the caller's tensors, dense or flat, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.tracing import number_from_data
from equiformer_pytorch.graph.selection import places
from equiformer_pytorch.graph.table import Table, group_bounds


@dataclass(frozen=True)
class Layout:
    """The real points of a call in one row, structure after structure.

    The caller's tensors begin with the sizes `size`: (structures, columns) where they are dense, (points,) where flat.
    What not every call needs is found when it is asked for.
    """

    size: tuple[int, ...]
    flat: Int[Tensor, " points"] | None
    """Index of each real point among all that the caller has; None when all are real and in this order."""
    structure: Int[Tensor, " points"]
    given_structures: int | None
    """How many there are, where that is known."""
    group_sizes: tuple[int, int] | None = None
    """Least and most points of a structure, where they are known."""

    @classmethod
    def of_mask(cls, mask: Tensor | None, structures: int, columns: int, device: torch.device) -> Layout:
        """Of dense tensors, from the caller's (b, n) mask of bool or 0/1 numbers."""
        if mask is not None:
            checks.check_shape("mask", checks.check_tensor("mask", mask), (structures, columns), "(batch, points)")
            with checks.together() as gathered:
                mask = checks.as_bool("mask", mask)
                of_structures = mask.sum(1)
                known = structures > 0 and columns > 0
                bounds = [gathered.number(bound) for bound in of_structures.aminmax()] if known else []
                total = gathered.number(of_structures.sum())
            if total.value < structures * columns:
                (index,) = places(mask.flatten(), total.value)
                least, most = (bound.value for bound in bounds)
                return cls((structures, columns), index, index // columns, structures, (least, most))
        structure = torch.arange(structures, device=device)[:, None].expand(structures, columns).reshape(-1)
        return cls((structures, columns), None, structure, structures, (columns, columns))

    @classmethod
    def of_batch(
        cls, batch: Int[Tensor, " points"] | None, points: int, structures: int | None, device: torch.device, sort: bool
    ) -> Layout:
        """Of flat tensors, from the structure of each point; None: all are of one. `sort`: they may be in any order.

        `structures` is their number where it is known, else one more than the largest in `batch`.
        """
        if batch is None:
            structures = 1 if structures is None else structures
            sizes = (points, points) if structures == 1 else None
            structure = torch.zeros(points, dtype=torch.long, device=device)
            return cls((points,), None, structure, structures, sizes)
        flat = None
        if sort:
            batch, flat = batch.sort(stable=True)
        return cls((points,), flat, batch, structures)

    @cached_property
    def structures(self) -> int:
        """How many there are."""
        if self.given_structures is not None:
            return self.given_structures
        return number_from_data(self.structure[-1]) + 1 if self.structure.shape[0] else 0

    @cached_property
    def table(self) -> Table:
        """The points of each structure as a row."""
        return Table.from_groups(self.structure, self.structures, self.group_sizes)

    @cached_property
    def name(self) -> Int[Tensor, " points"]:
        """What the caller calls each point: its column in a dense structure, its index among flat points."""
        if len(self.size) == 1:
            return self.index if self.flat is None else self.flat
        return (self.index if self.flat is None else self.flat) - self.structure * self.size[1]

    @cached_property
    def position(self) -> Int[Tensor, " points"]:
        """Place in the sequence of the structure: its column, or how many flat points of the structure come before."""
        return self.name if len(self.size) > 1 else self.index - self.first[self.structure]

    @property
    def index(self) -> Int[Tensor, " points"]:
        """0, 1, 2, …"""
        return torch.arange(self.structure.shape[0], device=self.structure.device)

    @property
    def longest(self) -> int:
        """Places that a sequence may have."""
        return self.size[1] if len(self.size) > 1 else self.table.columns

    def compact(self, x: Tensor) -> Tensor:
        """The real points of the caller's tensor (size, …): (points, …)."""
        x = x.flatten(0, len(self.size) - 1)
        return x if self.flat is None else x.index_select(0, self.flat)

    def expand(self, x: Tensor, fill: float = 0) -> Tensor:
        """Real points (points, …) back in their places, `fill` elsewhere: (size, …)."""
        if self.flat is not None:
            every = x.new_full((math.prod(self.size), *x.shape[1:]), fill)
            x = every.index_copy(0, self.flat, x)
        return x.unflatten(0, self.size) if len(self.size) > 1 else x

    def check_shape(self, name: str, tensor: Tensor, wanted: Sequence[int], words: str) -> None:
        """ValueError unless the tensor has the sizes of the caller's points, then these."""
        points = "batch, points" if len(self.size) > 1 else "points"
        checks.check_shape(name, tensor, (*self.size, *wanted), f"({points}{words})")

    @property
    def counts(self) -> Int[Tensor, " structures"]:
        """Number of real points of each structure."""
        return group_bounds(self.structure, self.structures).diff()

    @property
    def first(self) -> Int[Tensor, " structures"]:
        """Flat index of the first real point of each structure."""
        return group_bounds(self.structure, self.structures)[:-1]
