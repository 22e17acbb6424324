"""Neighbours in large structures: points are sorted into cells, and only nearby cells are looked at.

Time and memory are linear in the number of points; the result is that of looking at all pairs.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.graph.selection import smallest

# Pairs of points whose distance is computed in one go: bounds the memory of the search.
PAIRS_AT_ONCE = 2**22
# Cells per axis; points that are spread wider are compared with all others.
LARGEST_GRID = 2**18
# Points per structure whose neighbours are looked for among all, to find out how large cells must be.
SAMPLE = 64


def neighbours_by_cells(
    coordinates: Float[Tensor, "points 3"], structure: Int[Tensor, " points"], count: float, radius: float
) -> tuple[Int[Tensor, " edges"], Int[Tensor, " edges"]]:
    """Senders and receivers of the `count` nearest neighbours within `radius`, sorted by receiver, then sender."""
    points = coordinates.shape[0]
    low = coordinates.amin(0)
    extent = float((coordinates.amax(0) - low).amax())
    size = _cell_size(coordinates, structure, count, radius)
    senders, receivers = [], []
    waiting = torch.arange(points, device=coordinates.device)
    while waiting.numel() and LARGEST_GRID > extent / size > 4:
        cells = Cells(coordinates, low, structure, size)
        # Cells of this size show all points within it: who has `count` of them, or wants no others, is done.
        unfinished = []
        for part in waiting.split(max(1, PAIRS_AT_ONCE // cells.most_candidates(waiting))):
            sender, receiver = cells.nearest(part, count, min(radius, size))
            done = torch.bincount(receiver, minlength=points) >= (0 if radius <= size else count)
            senders.append(sender[done[receiver]])
            receivers.append(receiver[done[receiver]])
            unfinished.append(part[~done[part]])
        waiting = torch.cat(unfinished)
        size *= 2
    for part in waiting.split(max(1, PAIRS_AT_ONCE // points)):
        distance = torch.cdist(coordinates[part], coordinates, compute_mode="donot_use_mm_for_euclid_dist")
        allowed = (structure[part, None] == structure) & (distance <= radius)
        allowed[torch.arange(part.numel(), device=part.device), part] = False
        row, sender = smallest(distance, allowed, count).nonzero().unbind(1)
        senders.append(sender)
        receivers.append(part[row])
    sender, receiver = torch.cat(senders), torch.cat(receivers)
    order = (receiver * points + sender).argsort()
    return sender[order], receiver[order]


def _cell_size(coordinates: Tensor, structure: Tensor, count: float, radius: float) -> float:
    """The radius, or the distance within which most points have `count` neighbours, whichever is smaller."""
    if math.isinf(count):
        return radius
    points = coordinates.shape[0]
    sample = torch.linspace(0, points - 1, min(SAMPLE, points), device=coordinates.device).long()
    distance = torch.cdist(coordinates[sample], coordinates, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(structure[sample, None] != structure, math.inf)
    furthest = distance.topk(min(int(count) + 1, points), dim=-1, largest=False).values[:, -1]
    typical = float(furthest.sort().values[int(0.9 * (len(sample) - 1))])
    return min(radius, max(typical, torch.finfo(coordinates.dtype).tiny))


class Cells:
    """Points sorted by cubic cell; cells of one structure, and along z, follow each other."""

    def __init__(self, coordinates: Tensor, low: Tensor, structure: Tensor, size: float) -> None:
        self.coordinates = coordinates
        # Numbers beyond are whole anyway; the distances decide.
        cell = ((coordinates - low) / size).floor().clamp(max=2.0**53).long()
        # A margin of one cell on every side, so that the cells around a point never wrap into another row.
        cell = torch.stack([_without_gaps(axis) for axis in cell.unbind(1)], dim=1) + 1
        self.shape = (cell.amax(0) + 2).tolist()
        keys, self.order = self._key(cell, structure).sort(stable=True)
        around = torch.tensor([-1, 0, 1], device=coordinates.device)
        x, y = torch.meshgrid(around, around, indexing="ij")
        columns = torch.stack((x.flatten(), y.flatten(), torch.zeros_like(x).flatten()), dim=-1)
        middle = self._key(cell[:, None] + columns, structure[:, None])
        self.first = torch.searchsorted(keys, middle - 1)
        self.length = torch.searchsorted(keys, middle + 1, right=True) - self.first

    def _key(self, cell: Tensor, structure: Tensor) -> Tensor:
        x, y, z = cell.unbind(-1)
        return ((structure * self.shape[0] + x) * self.shape[1] + y) * self.shape[2] + z

    def most_candidates(self, points: Tensor) -> int:
        """Most points in the 27 cells around any of these."""
        return int(self.length[points].sum(1).max())

    def nearest(self, receivers: Tensor, count: float, radius: float) -> tuple[Tensor, Tensor]:
        """Senders and receivers of the `count` nearest within `radius`, at most the cell size; ties: first come."""
        lengths = self.length[receivers]
        per_receiver = lengths.sum(1)
        runs = lengths.flatten()
        run = torch.repeat_interleave(torch.arange(runs.numel(), device=runs.device), runs)
        offset = torch.arange(run.numel(), device=runs.device) - (runs.cumsum(0) - runs).index_select(0, run)
        sender = self.order.index_select(0, self.first[receivers].flatten().index_select(0, run) + offset)
        row = run // lengths.shape[1]
        receiver = receivers.index_select(0, row)
        # The function that looks at all pairs too: sums in another order would break ties in another way.
        here, there = (self.coordinates.index_select(0, end)[:, None] for end in (receiver, sender))
        distance = torch.cdist(there, here, compute_mode="donot_use_mm_for_euclid_dist").flatten()
        allowed = (sender != receiver) & (distance <= radius)
        if math.isinf(count):
            return sender[allowed], receiver[allowed]
        columns = int(per_receiver.max())
        column = torch.arange(run.numel(), device=runs.device) - (per_receiver.cumsum(0) - per_receiver)[row]
        table = distance.new_full((receivers.numel(), columns), math.inf)
        table[row, column] = distance.masked_fill(~allowed, math.inf)
        last = table.topk(min(int(count), columns), dim=-1, largest=False).values[:, -1][row]
        # Few are left, the chosen and those as far as the last of them: in order, the first ones win.
        few = (allowed & (distance <= last)).nonzero().squeeze(1)
        few = few[(row[few] * self.coordinates.shape[0] + sender[few]).argsort()]
        row, tied = row[few], (distance == last)[few]
        below = torch.bincount(row[~tied], minlength=receivers.numel())
        rank = tied.cumsum(0)
        before = torch.zeros_like(below).scatter_reduce(0, row, rank - tied.long(), "amin", include_self=False)
        chosen = few[~tied | (rank - before[row] <= count - below[row])]
        return sender[chosen], receiver[chosen]


def _without_gaps(cell: Int[Tensor, " points"]) -> Int[Tensor, " points"]:
    """Neighbouring numbers stay neighbours, but of empty stretches one cell is left: keys stay small."""
    numbers, index = cell.unique(return_inverse=True)
    steps = numbers.diff(prepend=numbers[:1]).clamp(max=2)
    return steps.cumsum(0)[index]
