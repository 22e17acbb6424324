r"""Neighbours within a cutoff, open or periodic, as indices; nothing here is differentiated.

An edge from sender j to receiver i is the vector :math:`x_j + o_{ij} C - x_i`, where the rows of C are the cell vectors
and o are whole numbers, zero along axes that are not periodic. There is one for each image of j closer to i than the
cutoff, images of i itself among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.graph import by_vesin
from equiformer_pytorch.graph.images import Images, Lattice
from equiformer_pytorch.graph.pairs import MOST_IMAGES, MOST_PAIRS, among_all, nearby
from equiformer_pytorch.graph.surroundings import Found, Surroundings, TooManyEdges

# Edges beyond which a graph is refused: 2²⁷ edges take 5 GiB, and a model far more.
MOST = 2**27
# Pairs up to which all are looked at: in one open structure, and per structure rather than to ask vesin.
FEW_OPEN, FEW_EACH = 2**15, 2**13
# Cells of unit vectors with less volume count as flat.
FLAT = 1e-9
# Points closer than this share of the cutoff lie on top of each other.
CLOSEST = 1e-6
# Difference of squared distances below which neighbours count as equally far, where that is asked for.
NEARLY = 0.01
# The search looks a little farther than the cutoff, and the distances that decide are always computed the same way.
MARGIN = 1 + 1e-9


@torch.no_grad()
def radius_graph(
    pos: Float[Tensor, "points 3"],
    cutoff: float,
    *,
    batch: Integer[Tensor, " points"] | None = None,
    cell: Float[Tensor, "... 3"] | None = None,
    pbc: bool | Sequence[Any] | Shaped[Tensor, "..."] | None = None,
    max_neighbors: int | None = None,
    strict_neighbors: bool = True,
) -> tuple[Int[Tensor, "2 edges"], Int[Tensor, "edges 3"]]:
    """`edge_index` (sender, receiver) and `cell_offsets` of all pairs closer than the cutoff, as ASE's neighbour list
    has them; sorted by receiver, then sender, then offset. Found in float64, on the device of `pos`.

    Args:
        pos: positions, inside the cell or outside.
        cutoff: in the unit of the positions.
        batch: the structure of each point, in any order; None: all are of one.
        cell: cell vectors as rows, (structures, 3, 3), or (3, 3) for one structure. Any shape and size; vectors of axes
            that are not periodic mean nothing and may be zero.
        pbc: which axes are periodic: one bool, three, or (structures, 3); numbers 0 and 1 will do. Default: all where
            there is a cell.
        max_neighbors: only the nearest so many of each receiver; of those equally far the first in the order above.
        strict_neighbors: False: with the nearest one that `max_neighbors` leaves out, at distance d, all whose squared
            distance is at most d² + 0.01. Then symmetry decides, not the order of points. (fairchem 1 does so with
            ``enforce_max_neighbors_strictly=False``, in Å².)

    Raises:
        ValueError, TypeError: for positions that are not finite or on top of each other, a periodic cell without
            volume, more than 2²⁷ edges to be expected from the density, and arguments of a wrong shape or type.
    """
    pos = checks.check_tensor("pos", pos)
    checks.check_shape("pos", pos, (None, 3), "(points, 3)")
    checks.check_floating("pos", pos)
    checks.check_number("cutoff", cutoff, 0, whole=False, exclusive=True)
    if math.isinf(cutoff):
        raise ValueError("cutoff must be finite, got inf")
    checks.check_number("max_neighbors", max_neighbors, 1)
    structure, cell, periodic = _structures(pos, batch, cell, pbc)
    if not len(pos):
        return structure.new_zeros(2, 0), structure.new_zeros(0, 3)
    points = pos.detach().double()
    try:
        found = _search(points, structure, cell, periodic, float(cutoff))
    except TooManyEdges as error:
        raise _too_large(cutoff, "edges", f"more than {error}", len(pos)) from None
    if len(found.senders):
        closest, within = torch.stack((found.distance.amin(), (found.distance < cutoff).sum())).tolist()
        if closest < CLOSEST * cutoff:
            raise _coincident(found)
        if within < len(found.senders):
            found = found.only((found.distance < cutoff).nonzero().squeeze(1))
        if max_neighbors is not None:
            found = found.only(_nearest(found, len(pos), max_neighbors, strict_neighbors))
    edge_index = torch.stack((found.senders, found.receivers))
    offsets = edge_index.new_zeros(3, edge_index.shape[1]) if found.offsets is None else found.offsets
    return edge_index, offsets.T.contiguous()


def _structures(
    pos: Tensor, batch: Tensor | None, cell: Tensor | None, pbc: object
) -> tuple[Int[Tensor, " points"], Float[Tensor, "structures 3 3"], Bool[Tensor, "structures 3"] | None]:
    """The structure of each point, cells, and which axes are periodic: None where no axis of any is."""
    device, structures = pos.device, None
    if cell is not None:
        cell = checks.check_cell(cell).detach().to(device, torch.float64)
        structures = len(cell)
    periodic = torch.as_tensor(cell is not None if pbc is None else pbc, device=device)
    if periodic.ndim == 2 and structures is None:
        structures = len(periodic)
    if batch is None and structures not in (None, 1):
        raise ValueError(f"batch is missing: which of the {structures} structures each point belongs to")
    index = None if batch is None else checks.check_integers("batch", batch, (len(pos),), "(points,)").to(device)
    # One look at all values.
    facts = [pos.isfinite().all(), periodic.any(), ((periodic == 0) | (periodic == 1)).all()]
    if index is not None and len(pos):
        facts += [index.amin(), index.amax()]
    finite, repeats, boolean, low, high = (*torch.stack([fact.long() for fact in facts]).tolist(), 0, -1)[:5]
    if not finite:
        checks.check_finite("pos", pos, "point")
    if not boolean or periodic.is_complex():
        raise ValueError(f"pbc must hold booleans or 0/1 numbers, got other values ({periodic.dtype})")
    if index is None:
        index, structures = torch.zeros(len(pos), dtype=torch.long, device=device), 1
    else:
        structures = high + 1 if structures is None else structures
        if len(pos) and (low < 0 or high >= structures):
            raise ValueError(f"batch must lie in 0 … {structures - 1}, got values from {low} to {high}")
    periodic = periodic.bool()
    if periodic.ndim < 2:
        periodic = (periodic.expand(3) if periodic.ndim == 0 else periodic).expand(structures, -1)
    checks.check_shape("pbc", periodic, (structures, 3), "(structures, 3), (3,) or ()")
    if cell is None:
        if repeats:
            raise ValueError("cell is missing: pbc says that there are periodic axes")
        cell = torch.zeros(structures, 3, 3, dtype=torch.float64, device=device)
    return index, cell, periodic if repeats else None


def _search(
    pos: Float[Tensor, "points 3"], structure: Tensor, cell: Tensor, periodic: Tensor | None, cutoff: float
) -> Found:
    """The edges, and perhaps some that are a little too long, by the way that suits."""
    reach = cutoff * MARGIN
    if periodic is None and len(cell) == 1 and len(pos) ** 2 <= FEW_OPEN:
        around = Surroundings.open(pos, structure, structure.new_full((1,), len(pos)))
        return among_all(around, len(pos) ** 2, reach, MOST)
    lattice = Lattice.of(cell, torch.zeros_like(cell[:, 0], dtype=torch.bool) if periodic is None else periodic)
    points = Images.of(pos, structure, lattice, reach)
    per_structure = points.per_structure()
    facts = {
        "cell": torch.where(lattice.pbc[:, :, None], cell, 0.0).isfinite().all(),
        "flat": (lattice.volume >= FLAT).logical_not().any(),
        "lost": points.lost().any(),
        "edges": points.expected_edges(cutoff),
        "images": per_structure.sum(),
        "pairs": (points.counts * per_structure).sum(),
        "filled": (points.counts > 0).sum(),
    }
    facts = dict(zip(facts, torch.stack([fact.double() for fact in facts.values()]).tolist(), strict=True))
    _check(points, cell, cutoff, facts)
    images, pairs = int(facts["images"]), int(facts["pairs"])
    vesin = by_vesin.module() if pos.device.type == "cpu" else None
    if vesin is not None and pairs > FEW_EACH * facts["filled"]:
        return by_vesin.structure_by_structure(vesin, points, reach, MOST)
    if periodic is None:
        around = Surroundings.open(pos, structure, points.counts)
    else:
        around = Surroundings.periodic(points, images)
    return nearby(around, pairs, reach, MOST)


def _check(points: Images, cell: Tensor, cutoff: float, facts: Mapping[str, float]) -> None:
    """ValueError for cells and sizes that are impossible."""
    pbc = points.lattice.pbc
    if not facts["cell"]:
        checks.check_finite("cell", torch.where(pbc[:, :, None], cell, 0.0).flatten(1), "structure")
    if facts["flat"]:
        structure = int((points.lattice.volume >= FLAT).logical_not().nonzero()[0])
        raise ValueError(
            f"cell of structure {structure} has no volume along its periodic axes "
            f"{pbc[structure].tolist()}: {cell[structure].tolist()}"
        )
    if facts["lost"]:
        point = int(points.lost().nonzero()[0])
        raise ValueError(
            f"pos must be near its cell, got point {point} at {points.pos[point].tolist()}, more than 2⁴⁵ cells away"
        )
    for name, number in (("edges", facts["edges"]), ("images of points", facts["images"])):
        if not number <= MOST or (name == "images of points" and number > MOST_IMAGES and facts["pairs"] > MOST_PAIRS):
            raise _too_large(cutoff, name, f"about {number:.1e}", len(points.pos))


def _too_large(cutoff: float, what: str, how_many: str, points: int) -> ValueError:
    return ValueError(
        f"cutoff = {cutoff} is too large: {how_many} {what} are to be expected from the density of the {points} points,"
        f" more than {MOST:.1e}"
    )


def _coincident(found: Found) -> ValueError:
    edge = int(found.distance.argmin())
    offset = [0, 0, 0] if found.offsets is None else found.offsets[:, edge].tolist()
    return ValueError(
        f"pos must not have points on top of each other, got points {int(found.receivers[edge])} and "
        f"{int(found.senders[edge])} at a distance of {float(found.distance[edge]):.1e} (cell offset {offset})"
    )


def _nearest(found: Found, points: int, count: int, strict: bool) -> Int[Tensor, " some"]:
    """The nearest so many edges of each receiver, in their order; of those equally far the first, or, unless it is to
    be `strict`, all that are hardly farther than the first one beyond."""
    by_distance = found.distance.argsort(stable=True)
    order = by_distance.index_select(0, found.receivers.index_select(0, by_distance).argsort(stable=True))
    receivers = found.receivers.index_select(0, order)  # as before: edges are sorted by receiver
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(receivers, receivers)
    kept = rank < count
    if not strict:
        square = found.distance.index_select(0, order).square()
        beyond = (square + NEARLY).where(rank == count, math.inf)
        limit = square.new_full((points,), math.inf).scatter_reduce(0, receivers, beyond, "amin")
        kept = square <= limit.index_select(0, receivers)
    return torch.zeros_like(order, dtype=torch.bool).index_copy(0, order, kept).nonzero().squeeze(1)
