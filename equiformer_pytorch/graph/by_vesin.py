"""Neighbours by the library vesin, where it can take the structure.

Seen with vesin 0.6.2: a structure of more than 1e5 of its cells gets fewer, along a thin axis none, and then it divides
by their number: the process dies. Cells are counted in 32 bits, and pairs until memory is full. So it gets points close
to the first cell, of few of its cells and few pairs of them; whatever else there is, is searched for in plain torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from equiformer_pytorch.graph.images import Images, over_structures
from equiformer_pytorch.graph.pairs import EPS, MOST_IMAGES, Cells, nearby
from equiformer_pytorch.graph.surroundings import Found, Surroundings, measured

# Cells of the size of the cutoff; half of what vesin bears.
MOST_CELLS = 5e4
# Pairs of cells, and of points, that it may have to look at.
MOST_VISITS, MOST_PAIRS = 2**24, 2**26
# Rounding of the positions, made up for by a longer cutoff, as a share of it.
MOST_ROUNDING = 1e-3
# Keys to sort by have 63 bits.
LARGEST_KEY = 2**62


def module() -> Any:
    """vesin, or None where it is not installed."""
    try:
        import vesin  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return vesin


def structure_by_structure(vesin: Any, points: Images, cutoff: float, most: int) -> Found:
    """The edges of all structures, in the order of :class:`Found`; TooManyEdges where there are more than `most`."""
    order = points.structure.argsort(stable=True)
    place, box, suits, rounding = _prepared(points, order, cutoff)
    mixed = (points.structure.diff() < 0).any().expand_as(suits)
    columns = (points.counts, points.counts * points.per_structure(), suits, torch.where(suits, rounding, 0.0), mixed)
    counts, pairs, suited, longer, mixed = torch.stack([column.double() for column in columns]).tolist()
    search = vesin.NeighborList(cutoff=cutoff + 2 * max(longer), full_list=True, n_threads=torch.get_num_threads())
    pos, wrapped = points.pos.T.contiguous(), points.wrapped.T.long()
    parts = []
    for number, mine in enumerate(order.split([int(count) for count in counts])):
        if not len(mine):
            continue
        found = None
        if suited[number] and (pairs[number] <= MOST_PAIRS or _few_pairs(points, mine, number, cutoff)):
            found = _search(search, place[mine].numpy(), box[number].numpy())
        if found is None:
            plain = nearby(_alone(points, mine, number, cutoff), int(pairs[number]), cutoff, most)
            parts.append(Found(mine[plain.senders], mine[plain.receivers], plain.offsets, plain.distance))
        else:
            senders, receivers = mine[found[0]], mine[found[1]]
            offsets = found[2] - wrapped.index_select(1, senders) + wrapped.index_select(1, receivers)
            parts.append(measured(pos, points.structure, points.lattice.cell, senders, receivers, offsets))
    joined = Found.joined(parts, most)
    return joined.only(joined.receivers.argsort(stable=True)) if any(mixed) else joined


def _prepared(
    points: Images, order: Int[Tensor, " points"], cutoff: float
) -> tuple[
    Float64[Tensor, "points 3"],
    Float64[Tensor, "structures 3 3"],
    Bool[Tensor, " structures"],
    Float64[Tensor, " structures"],
]:
    """Positions relative to a point of each structure, wrapped along periodic axes and not below zero along open ones;
    boxes; which structures vesin may see; and how far these positions may be off by rounding.

    Boxes repeat along open axes as well, too far away to be seen: vesin takes ages where only some axes are open.
    """
    lattice, structure, structures = points.lattice, points.structure, len(points.counts)
    reference = order.index_select(0, (points.counts.cumsum(0) - points.counts).clamp(max=len(order) - 1))
    own = reference.index_select(0, structure)
    cells = points.wrapped - points.wrapped.index_select(0, own)
    moves = (cells[:, :, None] * lattice.cell.index_select(0, structure)).sum(1)
    apart = points.pos - points.pos.index_select(0, own)
    place = apart - moves
    along = lattice.fractional(place, structure)
    low, high = (over_structures(along, structure, structures, how) for how in ("amin", "amax"))
    start = (torch.where(lattice.pbc, 0.0, low)[:, :, None] * lattice.unit).sum(1)
    place = place - start.index_select(0, structure)
    apart_enough = high - low + 1.1 * cutoff
    length = torch.where(lattice.pbc, lattice.length, apart_enough)
    heights = torch.where(lattice.pbc, lattice.heights, apart_enough)
    count = (heights / cutoff).floor().clamp(min=1)
    visits = (count * (2 * (count * cutoff / heights).ceil() + 1)).prod(1)
    rounding = 16 * EPS * (apart.abs() + moves.abs()).sum(1, keepdim=True)
    rounding = over_structures(rounding, structure, structures, "amax")[:, 0]
    suits = (count.prod(1) <= MOST_CELLS) & (visits <= MOST_VISITS) & (rounding <= MOST_ROUNDING * cutoff)
    return place, lattice.unit * length[:, :, None], suits, rounding


def _alone(points: Images, mine: Int[Tensor, " some"], number: int, cutoff: float) -> Surroundings:
    """One structure by itself."""
    part = points.only(mine, number, cutoff)
    return Surroundings.periodic(part, int(part.per_structure()))


def _few_pairs(points: Images, mine: Int[Tensor, " some"], number: int, cutoff: float) -> bool:
    """Whether a structure has no more than `MOST_PAIRS` within reach of one another."""
    around = _alone(points, mine, number, cutoff)
    return around.images <= MOST_IMAGES // 2 and int(Cells.of(around, cutoff).length.sum()) <= MOST_PAIRS


def _search(search: Any, place: np.ndarray, box: np.ndarray) -> tuple[Tensor, Tensor, Tensor] | None:
    """Senders, receivers and shifts, sorted; None where they cannot be."""
    pairs, shifts = search.compute(place, box, True, "PS", copy=False)
    (receivers, senders), (x, y, z) = (np.ascontiguousarray(of.T, dtype=np.int64) for of in (pairs, shifts))
    if len(pairs):
        low = [int(axis.min()) for axis in (x, y, z)]
        along = [int(axis.max()) - least + 1 for axis, least in zip((x, y, z), low, strict=True)]
        if len(place) ** 2 * math.prod(along) > LARGEST_KEY:
            return None
        keys = (((receivers * len(place) + senders) * along[0] + x - low[0]) * along[1] + y - low[1]) * along[2] + z
        order = keys.argsort()
        receivers, senders, x, y, z = (column[order] for column in (receivers, senders, x, y, z))
    return torch.from_numpy(senders), torch.from_numpy(receivers), torch.from_numpy(np.stack((x, y, z)))
