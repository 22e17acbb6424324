"""Points with the images that each is compared with, and the edges between them.

Vectors are kept as three columns, since these are what is worked on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from equiformer_pytorch.graph.images import Images


class TooManyEdges(ValueError):  # noqa: N818
    """More pairs than were allowed for."""


@dataclass(frozen=True)
class Found:
    """Edges, sorted by receiver, then sender, then offset."""

    senders: Int[Tensor, " edges"]
    receivers: Int[Tensor, " edges"]
    offsets: Int[Tensor, "3 edges"] | None
    """None: all are zero."""
    distance: Float64[Tensor, " edges"]

    @classmethod
    def joined(cls, parts: Iterable[Found], most: int) -> Found:
        """One after the other; TooManyEdges where there are more than `most`."""
        kept: list[Found] = []
        total = 0
        for part in parts:
            kept.append(part)
            total += len(part.senders)
            if total > most:
                raise TooManyEdges(total)
        if len(kept) == 1:
            return kept[0]
        offsets = [part.offsets for part in kept if part.offsets is not None]
        return cls(
            torch.cat([part.senders for part in kept]),
            torch.cat([part.receivers for part in kept]),
            torch.cat(offsets, dim=1) if offsets else None,
            torch.cat([part.distance for part in kept]),
        )

    def only(self, index: Int[Tensor, " some"]) -> Found:
        """Some of them."""
        return Found(
            self.senders.index_select(0, index),
            self.receivers.index_select(0, index),
            None if self.offsets is None else self.offsets.index_select(1, index),
            self.distance.index_select(0, index),
        )


@dataclass(frozen=True)
class Shifts:
    """How often, and from where on, the points repeat along each axis."""

    cell: Float64[Tensor, "structures 3 3"]
    wrapped: Int[Tensor, "3 points"]
    """Cells that the first image of a point, shift zero, is away from where the point was given."""
    times: Int[Tensor, "3 points"]
    least: Int[Tensor, "3 points"]


@dataclass(frozen=True)
class Surroundings:
    """Points, and the images of its structure that each is compared with, numbered from structure to structure."""

    pos: Float64[Tensor, "3 points"]
    structure: Int[Tensor, " points"]
    sorted: Int[Tensor, " points"]
    """Points by structure."""
    ends: Int[Tensor, " points"]
    """One more than the number of the last image of each point, in the order of `sorted`."""
    first: Int[Tensor, " structures"]
    size: Int[Tensor, " structures"]
    """Number of the first image of each structure, and how many it has."""
    images: int
    shifts: Shifts | None
    """None: the points are their only images."""

    @classmethod
    def open(
        cls, pos: Float64[Tensor, "points 3"], structure: Int[Tensor, " points"], counts: Int[Tensor, " structures"]
    ) -> Surroundings:
        """Without periodic axes."""
        order = torch.arange(len(pos), device=pos.device)
        return cls(
            pos=pos.T.contiguous(),
            structure=structure,
            sorted=structure.argsort(stable=True) if len(counts) > 1 else order,
            ends=order + 1,
            first=counts.cumsum(0) - counts,
            size=counts,
            images=len(pos),
            shifts=None,
        )

    @classmethod
    def periodic(cls, points: Images, images: int) -> Surroundings:
        """`images` is how many there are."""
        order = points.structure.argsort(stable=True)
        wrapped, times, least = (x.T.long() for x in (points.wrapped, points.times, points.least))
        size = points.per_structure().long()
        return cls(
            pos=points.pos.T.contiguous(),
            structure=points.structure,
            sorted=order,
            ends=times.prod(0).index_select(0, order).cumsum(0),
            first=size.cumsum(0) - size,
            size=size,
            images=images,
            shifts=Shifts(points.lattice.cell, wrapped, times, least),
        )

    def find(self, numbers: Int[Tensor, " images"]) -> tuple[Int[Tensor, " images"], Int[Tensor, "3 images"] | None]:
        """Point and shift of each image."""
        if self.shifts is None:
            return self.sorted.index_select(0, numbers), None
        row = torch.searchsorted(self.ends, numbers, right=True)
        point = self.sorted.index_select(0, row)
        x, y, z = self.shifts.times.index_select(1, point)
        rest = numbers - self.ends.index_select(0, row) + x * y * z
        steps = torch.stack((rest // (y * z), rest // z % y, rest % z))
        return point, steps + self.shifts.least.index_select(1, point)

    def own(self) -> Int[Tensor, " points"]:
        """The number of the image of each point that is not shifted."""
        last = torch.empty_like(self.ends).index_copy(0, self.sorted, self.ends)
        if self.shifts is None:
            return last - 1
        x, y, z = -self.shifts.least
        _, along_y, along_z = self.shifts.times
        return last - self.shifts.times.prod(0) + (x * along_y + y) * along_z + z

    def edges(self, senders: Tensor, receivers: Tensor, shifts: Tensor | None) -> Found:
        """With their offsets and distances."""
        if self.shifts is None or shifts is None:
            return measured(self.pos, self.structure, None, senders, receivers, None)
        wrapped = self.shifts.wrapped
        offsets = shifts - wrapped.index_select(1, senders) + wrapped.index_select(1, receivers)
        return measured(self.pos, self.structure, self.shifts.cell, senders, receivers, offsets)


def measured(
    pos: Float64[Tensor, "3 points"],
    structure: Int[Tensor, " points"],
    cell: Float64[Tensor, "structures 3 3"] | None,
    senders: Int[Tensor, " edges"],
    receivers: Int[Tensor, " edges"],
    offsets: Int[Tensor, "3 edges"] | None,
) -> Found:
    """With distances, computed element by element, so that they depend on nothing else."""
    vector = pos.index_select(1, senders) - pos.index_select(1, receivers)
    if cell is not None and offsets is not None:
        vector += translations(offsets, cell, structure, receivers)
    return Found(senders, receivers, offsets, norm(vector))


def translations(
    offsets: Int[Tensor, "3 members"], cell: Float64[Tensor, "structures 3 3"], structure: Tensor, points: Tensor
) -> Float64[Tensor, "3 members"]:
    """So many cells of the structures of these points."""
    steps = offsets.to(cell.dtype)
    cells = cell.flatten(1).T
    if len(cell) > 1:
        cells = cells.index_select(1, structure.index_select(0, points))
    total = steps[0] * cells[0:3]
    for axis in (1, 2):
        total += steps[axis] * cells[3 * axis : 3 * axis + 3]
    return total


def norm(vector: Float64[Tensor, "3 members"]) -> Float64[Tensor, " members"]:
    """One operation after the other: rounded alike wherever a member stands."""
    x, y, z = vector
    return (x * x + y * y + z * z).sqrt()
