r"""Neighbours within a cutoff, open or periodic, as indices; nothing here is differentiated.

An edge from sender j to receiver i is the vector :math:`x_j + o_{ij} C - x_i`, where the rows of C are the cell vectors
and o are whole numbers, zero along axes that are not periodic. There is one for each image of j closer to i than the
cutoff, images of i itself among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.graph.cells import PAIRS_AT_ONCE, Cells
from equiformer_pytorch.graph.table import group_bounds

# Edges, or images of points, beyond which a graph is refused: 2²⁷ edges take 5 GiB, and a model far more.
MOST = 2**27
# Points closer than this share of the cutoff lie on top of each other.
CLOSEST = 1e-6
# The search looks a little farther than the cutoff, and the distances that decide are always computed the same way.
MARGIN = 1 + 1e-9


@torch.no_grad()
def radius_graph(
    pos: Float[Tensor, "points 3"],
    cutoff: float,
    *,
    batch: Int[Tensor, " points"] | None = None,
    cell: Float[Tensor, "structures 3 3"] | None = None,
    pbc: bool | Sequence[bool] | Bool[Tensor, "*structures 3"] | None = None,
    max_neighbors: int | None = None,
) -> tuple[Int[Tensor, "2 edges"], Int[Tensor, "edges 3"]]:
    """`edge_index` (sender, receiver) and `cell_offsets` of all pairs closer than the cutoff, as ASE's neighbour list
    has them; sorted by receiver, then sender, then offset. Found in float64, on the device of `pos`.

    Args:
        pos: positions, inside the cell or outside.
        cutoff: in the unit of the positions.
        batch: the structure of each point, in any order; None: all are of one.
        cell: cell vectors as rows, (structures, 3, 3), or (3, 3) for one structure. Any shape and size; vectors of axes
            that are not periodic mean nothing and may be zero.
        pbc: which axes are periodic: one bool, three, or (structures, 3). Default: all where there is a cell.
        max_neighbors: only the nearest so many of each receiver; of those equally far the first in the order above.

    Raises:
        ValueError, TypeError: for positions that are not finite or on top of each other, a periodic cell without
            volume, more than 2²⁷ edges to be expected from the density, and arguments of a wrong shape or type.
    """
    pos = checks.check_tensor("pos", pos)
    checks.check_shape("pos", pos, (None, 3), "(points, 3)")
    checks.check_floating("pos", pos)
    checks.check_finite("pos", pos, "point")
    checks.check_number("cutoff", cutoff, 0, whole=False, exclusive=True)
    if math.isinf(cutoff):
        raise ValueError("cutoff must be finite, got inf")
    checks.check_number("max_neighbors", max_neighbors, 1)
    points = _Points.of(pos.detach().double(), batch, cell, pbc)
    _check_size(points, cutoff)

    search = _by_images
    if pos.device.type == "cpu":
        try:
            import vesin  # noqa: F401  # pyright: ignore[reportMissingImports]

            search = _by_vesin
        except ImportError:
            pass
    senders, receivers, offsets = search(points, cutoff * MARGIN)

    distance = points.distances(senders, receivers, offsets)
    if distance.numel() and float(distance.min()) < CLOSEST * cutoff:
        edge = distance.argmin()
        raise ValueError(
            f"pos must not have points on top of each other, got points {int(receivers[edge])} and "
            f"{int(senders[edge])} at a distance of {float(distance[edge]):.1e} (cell offset {offsets[edge].tolist()})"
        )
    keep = distance < cutoff
    if not bool(keep.all()):
        senders, receivers, offsets, distance = senders[keep], receivers[keep], offsets[keep], distance[keep]
    pair = receivers * len(pos) + senders
    order = pair.argsort(stable=True)
    if bool((pair[order].diff() == 0).any()):
        order = _sorted(*offsets.flip(1).unbind(1), pair)
    if max_neighbors is not None:
        nearest = order[_sorted(distance[order], receivers[order])]
        first = group_bounds(receivers[nearest], len(pos))
        rank = torch.arange(len(nearest), device=pos.device) - first[receivers[nearest]]
        chosen = torch.zeros_like(senders, dtype=torch.bool)
        chosen[nearest[rank < max_neighbors]] = True
        order = order[chosen[order]]
    return torch.stack((senders[order], receivers[order])), offsets[order]


@dataclass(frozen=True)
class _Points:
    """Positions with cells that have three vectors: along open axes unit vectors at right angles to the others."""

    pos: Float[Tensor, "points 3"]
    structure: Int[Tensor, " points"]
    cell: Float[Tensor, "structures 3 3"]
    pbc: Bool[Tensor, "structures 3"]
    heights: Float[Tensor, "structures 3"]
    """Distance between the two faces of the cell that each axis joins."""
    fractional: Float[Tensor, "points 3"]
    """Coordinates in units of the cell vectors, those of periodic axes in [0, 1)."""
    wrapped: Int[Tensor, "points 3"]
    """Whole cells that were taken off for that."""

    @classmethod
    def of(cls, pos: Tensor, batch: Tensor | None, cell: Tensor | None, pbc: object) -> _Points:
        """From what the caller gave."""
        structures = None
        if cell is not None:
            cell = checks.check_cell(cell).detach().to(pos)
            structures = len(cell)
        periodic = torch.as_tensor(cell is not None if pbc is None else pbc, device=pos.device)
        periodic = checks.as_bool("pbc", periodic)
        if periodic.ndim == 2:
            structures = len(periodic) if structures is None else structures
        if batch is None:
            if structures not in (None, 1):
                raise ValueError(f"batch is missing: which of the {structures} structures each point belongs to")
            structure, structures = torch.zeros(len(pos), dtype=torch.long, device=pos.device), 1
        else:
            structure, structures = checks.check_batch(batch, len(pos), structures)
        if periodic.ndim == 0:
            periodic = periodic.expand(3)
        if periodic.ndim == 1:
            periodic = periodic.expand(structures, -1)
        checks.check_shape("pbc", periodic, (structures, 3), "(structures, 3), (3,) or ()")
        if cell is None:
            if bool(periodic.any()):
                raise ValueError("cell is missing: pbc says that there are periodic axes")
            cell = pos.new_zeros(structures, 3, 3)
        cell, heights = _complete(cell, periodic)
        fractional = torch.linalg.solve(cell.mT[structure], pos[:, :, None]).squeeze(-1)
        wrapped = torch.where(periodic[structure], fractional.floor(), 0)
        return cls(pos, structure, cell, periodic, heights, fractional - wrapped, wrapped.long())

    def extent(self) -> tuple[Float[Tensor, "structures 3"], Float[Tensor, "structures 3"]]:
        """Least and largest fractional coordinates of each structure."""
        row = self.structure[:, None].expand(-1, 3)
        start = torch.zeros_like(self.heights)
        low, high = (start.scatter_reduce(0, row, self.fractional, how, include_self=False) for how in ("amin", "amax"))
        return low, high

    def distances(self, senders: Tensor, receivers: Tensor, offsets: Tensor) -> Float[Tensor, " edges"]:
        """Element by element, so that they do not depend on what else is computed."""
        vector = self.pos.index_select(0, senders) - self.pos.index_select(0, receivers)
        if bool(self.pbc.any()):
            cell = self.cell if len(self.cell) == 1 else self.cell[self.structure[receivers]]
            for axis in range(3):
                vector = vector + offsets[:, axis, None] * cell[:, axis]
        x, y, z = vector.unbind(1)
        return (x * x + y * y + z * z).sqrt()


def _complete(cell: Tensor, periodic: Tensor) -> tuple[Float[Tensor, "structures 3 3"], Float[Tensor, "structures 3"]]:
    """The cell with vectors for the open axes, and its heights; ValueError where the periodic ones are dependent."""
    wanted = torch.where(periodic[:, :, None], cell, torch.zeros_like(cell))
    checks.check_finite("cell", wanted.flatten(1), "structure")
    length = wanted.norm(dim=-1)
    unit = wanted / length.clamp(min=torch.finfo(cell.dtype).tiny)[:, :, None]
    for axis in range(3):
        # An open axis: of the directions of space, what is left of the one farthest from the other vectors.
        others = torch.linalg.svd(torch.cat((unit[:, :axis], unit[:, axis + 1 :]), dim=1), full_matrices=True).Vh[:, 2]
        unit[:, axis] = torch.where(periodic[:, axis, None], unit[:, axis], others)
    flat = unit.det().abs() < 1e-9
    if bool(flat.any()):
        structure = int(flat.nonzero()[0])
        raise ValueError(
            f"cell of structure {structure} has no volume along its periodic axes "
            f"{periodic[structure].tolist()}: {cell[structure].tolist()}"
        )
    completed = unit * torch.where(periodic, length, 1)[:, :, None]
    return completed, 1 / completed.inverse().norm(dim=1)


def _check_size(points: _Points, cutoff: float) -> None:
    """ValueError where the density lets expect more edges than `MOST`, or the search would need as many images."""
    if not len(points.pos):
        return
    low, high = points.extent()
    count = torch.bincount(points.structure, minlength=len(points.cell)).double()
    # Along open axes no less than the cutoff: of a plane of points a sphere holds no more than a disc.
    length = torch.where(points.pbc, torch.ones_like(low), (high - low).clamp(min=cutoff))
    volume = points.cell.det().abs() * length.prod(-1)
    expected = count * count * (4 / 3 * math.pi * cutoff**3 / volume)
    expected = torch.where(points.pbc.any(1), expected, expected.minimum(count * count))
    images = count * torch.where(points.pbc, high - low + 2 * cutoff / points.heights, 1.0).prod(-1)
    for name, number in (("edges", float(expected.sum())), ("images of points", float(images.sum()))):
        if not number <= MOST:
            raise ValueError(
                f"cutoff = {cutoff} is too large: about {number:.1e} {name} are to be expected from the density of "
                f"the {len(points.pos)} points, more than {MOST:.1e}"
            )


def _by_vesin(points: _Points, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Senders, receivers and offsets by the library vesin, structure by structure."""
    import vesin  # pyright: ignore[reportMissingImports]

    search = vesin.NeighborList(cutoff=cutoff, full_list=True, n_threads=torch.get_num_threads())
    order = points.structure.argsort(stable=True)
    counts = torch.bincount(points.structure, minlength=len(points.cell)).tolist()
    senders, receivers, offsets = ([torch.zeros(0, dtype=torch.long)] for _ in range(3))
    for structure, mine in enumerate(order.split(counts)):
        if not len(mine):
            continue
        box, periodic = points.cell[structure].numpy(), points.pbc[structure].numpy()
        pairs, shifts = search.compute(points.pos[mine].numpy(), box, periodic, "PS", copy=False)
        for ends, end in ((receivers, 0), (senders, 1)):
            ends.append(mine[torch.from_numpy(pairs[:, end].astype("int64"))])
        offsets.append(torch.from_numpy(shifts.astype("int64")).flatten())
    return torch.cat(senders), torch.cat(receivers), torch.cat(offsets).view(-1, 3)


def _by_images(points: _Points, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Senders, receivers and offsets from all images of points that are within reach, sorted into cells."""
    device = points.pos.device
    low, high = points.extent()
    reach = torch.where(points.pbc, cutoff / points.heights, 0.0)
    # Axis by axis every image is put in for each of its shifts along that axis.
    image = torch.arange(len(points.pos), device=device)
    shifts = torch.zeros(len(image), 0, dtype=torch.long, device=device)
    for axis in range(3):
        place, structure = points.fractional[image, axis], points.structure[image]
        least = ((low - reach)[structure, axis] - place).ceil().long()
        most = ((high + reach)[structure, axis] - place).floor().long()
        # An open axis has no other images, however its bounds are rounded.
        least, most = (torch.where(points.pbc[structure, axis], bound, 0) for bound in (least, most))
        times = most - least + 1
        row = torch.repeat_interleave(torch.arange(len(image), device=device), times)
        step = torch.arange(len(row), device=device) - (times.cumsum(0) - times)[row]
        image, shifts = image[row], torch.cat((shifts[row], (least[row] + step)[:, None]), dim=1)
    if not len(image):
        return image, image, shifts
    structure, offsets = points.structure[image], shifts - points.wrapped[image]
    place = points.pos[image] + (offsets.double()[:, None] @ points.cell[structure]).squeeze(1)
    own = (shifts == 0).all(1).nonzero().squeeze(1)
    cells = Cells(place, place.amin(0), structure, cutoff)
    step = max(1, PAIRS_AT_ONCE // cells.most_candidates(own))
    found = [cells.nearest(part, math.inf, cutoff) for part in own.split(step)]
    senders, receivers = (torch.cat(ends) for ends in zip(*found, strict=True))
    return image[senders], image[receivers], offsets[senders] + points.wrapped[image[receivers]]


def _sorted(*keys: Tensor) -> Int[Tensor, " members"]:
    """The order by the last key, equal ones by the one before, and so on."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order
