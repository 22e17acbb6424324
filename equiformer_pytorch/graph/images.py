"""Points of structures, and those of their periodic images that may lie within reach of a point.

Nothing here waits for a device: what depends on values comes back as tensors, to be read all at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

# Rounding of a fractional coordinate: this share of |position| / height, over the volume of the cell of unit vectors.
ROUNDING = 64 * torch.finfo(torch.float64).eps
# Cells that a point may be away from its place in the first one: beyond, little is known of that place.
FARTHEST = 2.0**45


@dataclass(frozen=True)
class Images:
    """Every point is wrapped into its cell and repeated along periodic axes as far as a distance beyond the box that
    its structure fills there, whatever the shape of the cell.

    Images are numbered by structure, then point, then shift, the shift along the last axis running fastest.
    """

    pos: Float64[Tensor, "points 3"]
    structure: Int[Tensor, " points"]
    counts: Int[Tensor, " structures"]
    """Points of each structure."""
    lattice: Lattice
    low: Float64[Tensor, "structures 3"]
    high: Float64[Tensor, "structures 3"]
    """Least and largest fractional coordinates of each structure, those of periodic axes within [0, 1]."""
    wrapped: Float64[Tensor, "points 3"]
    """Whole cells that were taken off the fractional coordinates."""
    least: Float64[Tensor, "points 3"]
    times: Float64[Tensor, "points 3"]
    """The first shift of each point along each axis, and how many there are."""

    @classmethod
    def of(
        cls, pos: Float64[Tensor, "points 3"], structure: Int[Tensor, " points"], lattice: Lattice, reach: float
    ) -> Images:
        """All that are closer than `reach` to a point of their structure, and some more."""
        pbc, structures = lattice.pbc, len(lattice.pbc)
        periodic = pbc.index_select(0, structure)
        fractional = lattice.fractional(pos, structure)
        wrapped = torch.where(periodic, fractional.floor(), 0)
        place = fractional - wrapped
        low, high = (over_structures(place, structure, structures, how) for how in ("amin", "amax"))
        far = over_structures(pos.abs().amax(1, keepdim=True), structure, structures, "amax")
        beyond = reach / lattice.heights + ROUNDING * far / (lattice.heights * lattice.volume[:, None])
        least = ((low - beyond).index_select(0, structure) - place).ceil()
        most = ((high + beyond).index_select(0, structure) - place).floor()
        # An open axis has no other images, however its bounds are rounded.
        least, most = (torch.where(periodic, bound, 0) for bound in (least, most))
        counts = torch.zeros(structures, dtype=torch.long, device=pos.device)
        counts = counts.index_add(0, structure, torch.ones_like(structure))
        return cls(pos, structure, counts, lattice, low, high, wrapped, least, most - least + 1)

    def per_structure(self) -> Float64[Tensor, " structures"]:
        """How many images there are."""
        return self.low.new_zeros(len(self.low)).index_add(0, self.structure, self.times.prod(1))

    def expected_edges(self, cutoff: float) -> Float64[Tensor, ""]:
        """From the density of each structure."""
        count, pbc = self.counts.double(), self.lattice.pbc
        # Along open axes no less than the cutoff: of a plane of points a sphere holds no more than a disc.
        length = torch.where(pbc, 1.0, (self.high - self.low).nan_to_num(math.inf).clamp(min=cutoff))
        volume = (self.lattice.length * length).prod(1) * self.lattice.volume
        expected = count * count * (4 / 3 * math.pi * cutoff**3 / volume)
        return torch.where(pbc.any(1), expected, expected.minimum(count * count)).sum()

    def only(self, points: Int[Tensor, " some"], structure: int, reach: float) -> Images:
        """Those of one structure, of which these are the points."""
        alone = torch.zeros_like(points)
        return Images.of(self.pos.index_select(0, points), alone, self.lattice.only(structure), reach)

    def lost(self) -> Bool[Tensor, " points"]:
        """Points that are too far away from the first cell."""
        return (self.wrapped.abs() > FARTHEST).any(1)


@dataclass(frozen=True)
class Lattice:
    """Cells with three vectors: along open axes unit vectors at right angles to the others."""

    pbc: Bool[Tensor, "structures 3"]
    unit: Float64[Tensor, "structures 3 3"]
    """Directions of the cell vectors, as rows."""
    length: Float64[Tensor, "structures 3"]
    volume: Float64[Tensor, " structures"]
    """Of the cell of unit vectors: one where all angles are right, zero where the cell is flat."""
    inverse: Float64[Tensor, "structures 3 3"]
    """Of `unit`."""

    @classmethod
    def of(cls, cell: Float64[Tensor, "structures 3 3"], pbc: Bool[Tensor, "structures 3"]) -> Lattice:
        """Vectors of open axes mean nothing. What comes of flat cells means nothing either, but is no error."""
        wanted = torch.where(pbc[:, :, None], cell, 0.0)
        length = wanted.norm(dim=-1)
        rows = list((wanted / length.clamp(min=torch.finfo(cell.dtype).tiny)[:, :, None]).unbind(1))
        for axis in range(3):
            rows[axis] = torch.where(pbc[:, axis, None], rows[axis], _perpendicular(rows[axis - 2], rows[axis - 1]))
        faces = [torch.linalg.cross(rows[axis - 2], rows[axis - 1]) for axis in range(3)]
        volume = (rows[0] * faces[0]).sum(1)
        inverse = torch.stack(faces, dim=2) / volume[:, None, None]
        return cls(pbc, torch.stack(rows, dim=1), torch.where(pbc, length, 1.0), volume.abs(), inverse)

    @property
    def cell(self) -> Float64[Tensor, "structures 3 3"]:
        """The vectors themselves."""
        return self.unit * self.length[:, :, None]

    @property
    def heights(self) -> Float64[Tensor, "structures 3"]:
        """Distances between the two faces of the cell that each axis joins."""
        return self.length / self.inverse.norm(dim=1)

    def only(self, structure: int) -> Lattice:
        """That of one structure."""
        mine = slice(structure, structure + 1)
        return Lattice(self.pbc[mine], self.unit[mine], self.length[mine], self.volume[mine], self.inverse[mine])

    def fractional(self, pos: Float64[Tensor, "points 3"], structure: Int[Tensor, " points"]) -> Tensor:
        """Coordinates in units of the cell vectors."""
        inverse, length = (x.index_select(0, structure) for x in (self.inverse, self.length))
        return (pos[:, :, None] * inverse).sum(1) / length


def over_structures(
    x: Float64[Tensor, "points k"], structure: Int[Tensor, " points"], structures: int, how: Literal["amin", "amax"]
) -> Float64[Tensor, "structures k"]:
    """Least or largest of each structure; zero where it has no points."""
    start = x.new_zeros(structures, x.shape[1])
    return start.scatter_reduce(0, structure[:, None].expand_as(x), x, how, include_self=False)


def _perpendicular(a: Float64[Tensor, "structures 3"], b: Float64[Tensor, "structures 3"]) -> Tensor:
    """Unit vectors at right angles to both, each of which is a unit vector or zero."""
    lone = a + b
    axis = (lone.abs().argmin(1, keepdim=True) == torch.arange(3, device=a.device)).to(a.dtype)
    both = a.any(1, keepdim=True) & b.any(1, keepdim=True)
    found = torch.where(both, torch.linalg.cross(a, b), torch.linalg.cross(lone, axis))
    found = torch.where(both | lone.any(1, keepdim=True), found, axis)
    return found / found.norm(dim=1, keepdim=True)
