"""Where the points of a call lie in the caller's tensors, dense or flat, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.tracing import exporting
from equiformer_pytorch.graph.table import Table, group_bounds


@dataclass(frozen=True)
class Layout:
    """The real points of a call in one row, structure after structure.

    The caller's tensors begin with the sizes `size`: (structures, columns) where they are dense, (points,) where flat.
    """

    size: tuple[int, ...]
    structures: int
    flat: Int[Tensor, " points"] | None
    """Index of each real point among all that the caller has; None when all are real and in this order."""
    structure: Int[Tensor, " points"]
    name: Int[Tensor, " points"]
    """What the caller calls each point: its column in a dense structure, its index among flat points."""
    position: Int[Tensor, " points"]
    """Place in the sequence of the structure: its column, or how many flat points of the structure come before."""
    longest: int
    """Places that a sequence may have."""
    table: Table

    @classmethod
    def of_mask(cls, mask: Tensor | None, structures: int, columns: int, device: torch.device) -> Layout:
        """Of dense tensors, from the caller's (b, n) mask of bool or 0/1 numbers."""
        if mask is not None:
            checks.check_shape("mask", checks.check_tensor("mask", mask), (structures, columns), "(batch, points)")
            index = checks.as_bool("mask", mask).flatten().nonzero().squeeze(1)
            if len(index) < structures * columns:
                structure = index // columns
                column = index - structure * columns
                table = Table.from_groups(structure, structures)
                return cls((structures, columns), structures, index, structure, column, column, columns, table)
        structure = torch.arange(structures, device=device)[:, None].expand(structures, columns).reshape(-1)
        column = torch.arange(columns, device=device).expand(structures, columns).reshape(-1)
        table = Table(structures, columns)
        return cls((structures, columns), structures, None, structure, column, column, columns, table)

    @classmethod
    def of_batch(cls, batch: Tensor | None, points: int, structures: int | None, device: torch.device) -> Layout:
        """Of flat tensors, from the caller's (n,) structure of each point, in any order; None: all are of one.

        `structures` is their number where the caller says it, else one more than the largest in `batch`.
        """
        index = torch.arange(points, device=device)
        if batch is None:
            structures = 1 if structures is None else structures
            structure, flat, table = torch.zeros_like(index), None, Table(1, points)
            if structures != 1:
                table = Table.from_groups(structure, structures)
            return cls((points,), structures, flat, structure, index, index, points, table)
        batch, structures = checks.check_batch(batch, points, structures)
        flat = None
        # An exported program is for batches in any order: it cannot look first.
        if exporting() or bool((batch.diff() < 0).any()):
            batch, flat = batch.sort(stable=True)
        table = Table.from_groups(batch, structures)
        position = index - group_bounds(batch, structures)[batch]
        return cls((points,), structures, flat, batch, index if flat is None else flat, position, table.columns, table)

    def compact(self, x: Float[Tensor, "*size ..."]) -> Float[Tensor, "points ..."]:
        """The real points of the caller's tensor."""
        x = x.flatten(0, len(self.size) - 1)
        return x if self.flat is None else x.index_select(0, self.flat)

    def expand(self, x: Float[Tensor, "points ..."], fill: float = 0) -> Float[Tensor, "*size ..."]:
        """Real points back in their places, `fill` elsewhere."""
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
