"""Which points attend to which: nearest neighbours, radius, adjacency. Nothing here is differentiated."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equiformer_pytorch.graph.cells import neighbours_by_cells
from equiformer_pytorch.graph.selection import places, smallest
from equiformer_pytorch.graph.table import Table

# Structures with more points than this are searched by cells, where no adjacency asks for all pairs.
DENSE = 1024
# Pairs of points that are looked at in one go: bounds the memory of the search.
PAIRS_AT_ONCE = 2**23


class NeighbourRules(NamedTuple):
    """Which neighbours a model attends to; see :class:`Equiformer`."""

    num_neighbors: float
    valid_radius: float
    attend_sparse_neighbors: bool
    max_sparse_neighbors: float
    num_adj_degrees: int
    """Steps along the adjacency that are told apart."""


@torch.no_grad()
def find_neighbours(
    coordinates: Float[Tensor, "points 3"],
    structures: Table,
    *,
    num_neighbors: float,
    valid_radius: float,
    graph_distance: Int[Tensor, "structures columns columns"] | None = None,
    max_sparse_neighbors: float = math.inf,
) -> tuple[Int[Tensor, " edges"], Int[Tensor, " edges"], tuple[int, int] | None]:
    """Senders and receivers of the edges, sorted by receiver, then sender; and, where it is known, how many a receiver
    has at least and at most.

    Without adjacency a point receives from its `num_neighbors` nearest points of the same structure within
    `valid_radius`. With it (`graph_distance` > 0 for connected points), from those connected points within the
    radius that come first by graph distance, then by distance, up to `max_sparse_neighbors`, and from the
    `num_neighbors` nearest of the points that are not connected. Equal distances: the point that comes first wins,
    so a choice depends on nothing but the structure.
    """
    rows, columns = structures.rows, structures.columns
    device = coordinates.device
    if columns > DENSE and graph_distance is None:
        structure = structures.gather(torch.arange(rows, device=device)[:, None].expand(rows, columns))
        return *neighbours_by_cells(coordinates, structure, num_neighbors, valid_radius), None
    padded = structures.spread(coordinates)
    real = structures.mask
    step = max(1, PAIRS_AT_ONCE // max(1, rows * columns))
    found = []
    for start in range(0, columns, step):
        window = slice(start, min(start + step, columns))
        distance = torch.cdist(padded[:, window], padded, compute_mode="donot_use_mm_for_euclid_dist")
        allowed = distance <= valid_radius
        allowed.diagonal(start, 1, 2).fill_(False)
        if real is not None:
            allowed &= real[:, window, None] & real[:, None]
        if graph_distance is None:
            chosen = smallest(distance, allowed, num_neighbors)
        else:
            steps = graph_distance[:, window]
            connected = allowed & (steps > 0)
            chosen = connected
            if max_sparse_neighbors < columns:
                rank = distance.argsort(dim=-1, stable=True).argsort(dim=-1)
                chosen = smallest((steps * columns + rank).double(), connected, max_sparse_neighbors)
            chosen |= smallest(distance, allowed & (steps == 0), num_neighbors)
        found.append((start, chosen, chosen.sum(-1)))
    if not rows or not columns:
        empty = torch.zeros(0, dtype=torch.long, device=device)
        return empty, empty, (0, 0)
    counts = torch.cat([of_receivers for _, _, of_receivers in found], dim=1) if len(found) > 1 else found[0][2]
    inside = counts if real is None else counts.masked_fill(~real, columns)
    totals = [of_receivers.sum() for _, _, of_receivers in found]
    least, most, *numbers = torch.stack((inside.amin(), counts.amax(), *totals)).tolist()
    pieces = []
    for (start, chosen, _), number in zip(found, numbers, strict=True):
        structure, receiver, sender = places(chosen, number)
        receiver = start + receiver if start else receiver
        if rows > 1:
            before = structure * columns
            receiver, sender = before + receiver, before + sender
        pieces.append((receiver, sender))
    receiver, sender = pieces[0]
    if len(pieces) > 1:
        receiver, sender = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        order = receiver.sort(stable=True).indices
        receiver, sender = receiver[order], sender[order]
    if real is not None:
        position = real.flatten().cumsum(0) - 1
        receiver, sender = position[receiver], position[sender]
    return sender, receiver, (min(least, most), most)


def graph_distances(
    adjacency: Bool[Tensor, "structures points points"], largest: int
) -> Int[Tensor, "structures points points"]:
    """Number of steps from each point to each other along `adjacency`, up to `largest`; 0 for itself and beyond."""
    structures, points, _ = adjacency.shape
    itself = torch.eye(points, dtype=torch.bool, device=adjacency.device)
    steps = adjacency.long().masked_fill_(itself, 0)
    for structure in range(structures):
        start, end = steps[structure].nonzero().unbind(1)
        # Row j holds the points that reach j: a step from j to k adds them to row k.
        reached = steps[structure].T > 0
        for degree in range(2, largest + 1):
            count = torch.zeros(points, points, dtype=torch.float32, device=adjacency.device)
            for j, k in zip(*(ends.split(max(1, PAIRS_AT_ONCE // points)) for ends in (start, end)), strict=True):
                count.index_add_(0, k, reached[j].float())
            new = (count > 0) & ~reached & ~itself
            steps[structure].masked_fill_(new.T, degree)
            reached = reached | new
    return steps
