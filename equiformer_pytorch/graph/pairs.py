"""Pairs of points and images closer than a cutoff: among all, or by cells. Order and result are the same.

Work goes through windows, so that memory beyond that of the result is bounded whatever the structure looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from equiformer_pytorch.graph.surroundings import Found, Surroundings, norm, translations

# Pairs whose distance is computed in one go.
WINDOW = 2**22
# Pairs up to which all are looked at, rather than cells made.
FEW_PAIRS = 2**14
# Images that are listed to sort them into cells, and pairs that are looked at instead where there are more.
MOST_IMAGES, MOST_PAIRS = 2**24, 2**27
# Cells along x and y are counted modulo these, so that keys fit into 63 bits; the distances decide anyway.
MODULO_X, MODULO_Y = 2**19, 2**15
# Cells are a little larger than the cutoff, whatever rounding does to their bounds.
WIDER = 1 + 1e-6
EPS = torch.finfo(torch.float64).eps


def nearby(around: Surroundings, pairs: int, cutoff: float, most: int) -> Found:
    """The edges, whichever way; there are `pairs` of a point and an image."""
    if pairs <= FEW_PAIRS or around.images > MOST_IMAGES:
        return among_all(around, pairs, cutoff, most)
    return by_cells(around, cutoff, most)


def among_all(around: Surroundings, pairs: int, cutoff: float, most: int) -> Found:
    """Every point with all images of its structure, which are `pairs` in all."""
    size = around.size.index_select(0, around.structure)
    ends = size.cumsum(0)
    start = around.first.index_select(0, around.structure) - ends + size
    own, device = around.own(), around.pos.device
    table = None
    if around.shifts is not None and around.images <= min(WINDOW, pairs // 2):
        table = around.find(torch.arange(around.images, device=device))

    def window(begin: int) -> Found:
        pair = torch.arange(begin, min(pairs, begin + WINDOW), device=device)
        receivers = _rows(size, ends, pair, len(pair) == pairs)
        numbers = pair + start.index_select(0, receivers)
        if table is None or table[1] is None:
            senders, shifts = around.find(numbers)
        else:
            senders, shifts = table[0].index_select(0, numbers), table[1].index_select(1, numbers)
        found = around.edges(senders, receivers, shifts)
        near = (found.distance < cutoff) & (numbers != own.index_select(0, receivers))
        return found.only(near.nonzero().squeeze(1))

    return Found.joined(map(window, range(0, max(pairs, 1), WINDOW)), most)


def by_cells(around: Surroundings, cutoff: float, most: int) -> Found:
    """Images are sorted into cells no smaller than the cutoff; points look at those around theirs."""
    cells = Cells.of(around, cutoff)
    return Found.joined((cells.near(*window) for window in cells.windows()), most)


@dataclass(frozen=True)
class Cells:
    """Images in cells, and for each point the images in the 27 cells around it: nine columns of three cells."""

    around: Surroundings
    reach: Float64[Tensor, ""]
    """The cutoff, and what rounding of the places may add."""
    points: Int[Tensor, " images"]
    shifts: Int[Tensor, "3 images"] | None
    place: Float64[Tensor, "3 images"]
    own: Int[Tensor, " points"]
    order: Int[Tensor, " images"]
    """Images by cell."""
    first: Int[Tensor, "points 9"]
    length: Int[Tensor, "points 9"]

    @classmethod
    def of(cls, around: Surroundings, cutoff: float) -> Cells:
        """Sorts the images."""
        device = around.pos.device
        points, shifts = around.find(torch.arange(around.images, device=device))
        structure, place = around.structure.index_select(0, points), around.pos.index_select(1, points)
        rounding = place.new_zeros(3)
        if around.shifts is not None and shifts is not None:
            away = shifts - around.shifts.wrapped.index_select(1, points)
            moves = translations(away, around.shifts.cell, around.structure, points)
            rounding = torch.where(moves == 0, 0.0, 16 * EPS * (place.abs() + moves.abs())).amax(1)
            place = place + moves
        x, y, z = (_along_axis(place[axis], WIDER * cutoff + 2 * rounding[axis]) for axis in range(3))
        # Structures lie apart along x.
        x = structure * (x.amax() + 2) + x
        margin = z.amax() + 3

        def key(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return (x % MODULO_X * MODULO_Y + y % MODULO_Y) * margin + z + 1

        keys, order = key(x, y, z).sort(stable=True)
        own = around.own()
        beside = torch.arange(9, device=device)
        x, y, z = (axis.index_select(0, own)[:, None] for axis in (x, y, z))
        middle = key(x + beside // 3 - 1, y + beside % 3 - 1, z)
        first = torch.searchsorted(keys, middle - 1)
        length = torch.searchsorted(keys, middle + 1, right=True) - first
        return cls(around, cutoff + 4 * rounding.amax(), points, shifts, place, own, order, first, length)

    def windows(self) -> list[tuple[int, int, int]]:
        """Ranges of points that look at about `WINDOW` images, and at how many."""
        ends = self.length.sum(1).cumsum(0)
        total, points = int(ends[-1]), len(ends)
        if total <= WINDOW:
            return [(0, points, total)]
        steps = torch.arange(1, -(-total // WINDOW), device=ends.device) * WINDOW
        last = torch.searchsorted(ends, steps)
        seen = torch.stack((last, torch.nn.functional.pad(ends, (1, 0)).index_select(0, last))).tolist()
        bounds = zip([0, *seen[0]], [*seen[0], points], [0, *seen[1]], [*seen[1], total], strict=True)
        return [(first, last, after - before) for first, last, before, after in bounds if first < last]

    def near(self, first: int, last: int, total: int) -> Found:
        """The edges to these receivers, which look at so many images."""
        lengths = self.length[first:last].flatten()
        ends = lengths.cumsum(0)
        pair = torch.arange(total, device=ends.device)
        run = _rows(lengths, ends, pair, True)
        start = self.first[first:last].flatten() - ends + lengths
        images = self.order.index_select(0, pair + start.index_select(0, run))
        receivers = first + run // 9
        own = self.own.index_select(0, receivers)
        near = norm(self.place.index_select(1, images) - self.place.index_select(1, own)) < self.reach
        near &= images != own
        structure = self.around.structure
        if len(self.around.size) > 1:
            of_image = structure.index_select(0, self.points.index_select(0, images))
            near &= of_image == structure.index_select(0, receivers)
        chosen = near.nonzero().squeeze(1)
        keys = receivers.index_select(0, chosen) * self.around.images + images.index_select(0, chosen)
        keys = keys.sort().values
        receivers = keys // self.around.images
        images = keys - receivers * self.around.images
        shifts = None if self.shifts is None else self.shifts.index_select(1, images)
        return self.around.edges(self.points.index_select(0, images), receivers, shifts)


def _rows(lengths: Tensor, ends: Tensor, members: Tensor, every: bool) -> Int[Tensor, " members"]:
    """Which of the rows of these lengths each member is in; faster where the members are all that there are."""
    if every:
        rows = torch.arange(len(lengths), device=lengths.device)
        return rows.repeat_interleave(lengths, output_size=len(members))
    return torch.searchsorted(ends, members, right=True)


def _along_axis(x: Float64[Tensor, " images"], size: Float64[Tensor, ""]) -> Int[Tensor, " images"]:
    """Cells of this size along one axis, from 0; of stretches without points one cell is left.

    Places are measured from the first point after such a stretch, so that nothing far away costs them digits.
    """
    ordered, order = x.sort()
    gap = torch.nn.functional.pad(ordered.diff() > size, (1, 0))
    number = torch.arange(len(x), device=x.device)
    begin = torch.where(gap, number, 0).cummax(0).values
    within = ((ordered - ordered.index_select(0, begin)) / size).floor().long()
    before = torch.nn.functional.pad(within[:-1], (1, 0))
    cell = within + torch.where(gap, before + 2, 0).cumsum(0)
    return torch.empty_like(cell).index_copy(0, order, cell)
