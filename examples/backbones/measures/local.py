"""The geometry from one residue to the next, and what is too close: bonds, angles, torsions, clashes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.backbones import geometry

IDEAL_BONDS = {"N–CA": geometry.N_CA, "CA–C": geometry.CA_C, "C–N": geometry.C_N}  # Å
IDEAL_ANGLES = {"N–CA–C": geometry.N_CA_C, "CA–C–N": geometry.CA_C_N, "C–N–CA": geometry.C_N_CA}  # degrees
JUNCTION_BONDS, JUNCTION_ANGLES = ("C–N",), ("CA–C–N", "C–N–CA")  # those that frames of ideal residues leave open
CA_STEP = 0.1  # Å, off which a step from CA to CA is wrong
PLANAR = math.radians(30)  # what ω may be off 180°
CA_CLASH = 3.7  # Å
# Å: the extreme limits of Ramachandran & Sasisekharan (1968), but for N and O, which hydrogen bonds hold together.
ATOM_CLASH = {"CC": 3.0, "CN": 2.8, "CO": 2.7, "NN": 2.6, "OO": 2.6, "NO": 2.5}
ELEMENTS = ("N", "C", "C", "O")
BINS = 36  # of 10°, of φ and of ψ
SMOOTHING = 10.0  # degrees
REGION = 0.9  # of the residues that the region is made of


def ca_steps(coords: Tensor) -> float:
    """Share of steps from CA to CA of 3.80 ± 0.1 Å."""
    ca = coords[:, 1]
    return float((((ca[1:] - ca[:-1]).norm(dim=-1) - 3.8).abs() <= CA_STEP).float().mean())


def bond_deviation(coords: Tensor, names: Iterable[str] = tuple(IDEAL_BONDS)) -> float:
    """Root mean square of what bonds are off the ideal, in Å."""
    lengths = geometry.bonds(coords)
    return math.sqrt(torch.cat([(lengths[name] - IDEAL_BONDS[name]).square() for name in names]).mean())


def angle_deviation(coords: Tensor, names: Iterable[str] = tuple(IDEAL_ANGLES)) -> float:
    """Root mean square of what bond angles are off the ideal, in degrees."""
    found = geometry.angles(coords)
    return math.sqrt(torch.cat([(torch.rad2deg(found[name]) - IDEAL_ANGLES[name]).square() for name in names]).mean())


def planar(coords: Tensor) -> float:
    """Share of peptide bonds whose ω is within 30° of 180°."""
    omega = geometry.torsions(coords)[:-1, 2]
    return float((math.pi - omega.abs() <= PLANAR).float().mean())


def ca_clashes(coords: Tensor, of: Tensor | None = None) -> float:
    """Pairs of CA, not of neighbours, closer than 3.7 Å, per 100 residues.

    With `of` (residues,), bool, only pairs count of which one or both are of these residues.
    """
    i, j = _pairs(coords, of)
    return 100 * int(((coords[i, 1] - coords[j, 1]).norm(dim=-1) < CA_CLASH).sum()) / len(coords)


def atom_clashes(coords: Tensor, of: Tensor | None = None) -> float:
    """Pairs of N, CA, C and O of residues two or more apart that are closer than any contact, per 100 residues.

    `of` as of `ca_clashes`.
    """
    limits = coords.new_tensor([[ATOM_CLASH["".join(sorted(a + b))] for b in ELEMENTS] for a in ELEMENTS])
    i, j = _pairs(coords, of)
    close = torch.cdist(coords[i], coords[j]) < limits
    return 100 * int(close.sum()) / len(coords)


def _pairs(coords: Tensor, of: Tensor | None) -> tuple[Tensor, Tensor]:
    """Residues two or more apart, one or both of `of`."""
    i, j = torch.triu_indices(len(coords), len(coords), 2)
    counted = torch.ones_like(i, dtype=torch.bool) if of is None else of[i] | of[j]
    return i[counted], j[counted]


def long_range_contacts(coords: Tensor) -> float:
    """Pairs of CA within 8 Å that are 12 or more residues apart, per residue."""
    return int((_distances(coords[:, 1], apart=12) < 8.0).sum()) / len(coords)


def _distances(points: Tensor, apart: int) -> Tensor:
    """Distances of the pairs of points that are `apart` or more positions apart."""
    i, j = torch.triu_indices(len(points), len(points), apart)
    return (points[i] - points[j]).norm(dim=-1)


@dataclass(frozen=True)
class Ramachandran:
    """The smallest region of φ and ψ that holds 90 % of the residues of some chains."""

    density: Tensor  # (36, 36): of φ, of ψ; sums up to one
    bound: float  # of the density, of the bins that are inside

    @classmethod
    def of(cls, chains: Iterable[Tensor]) -> Ramachandran:
        """That of chains (residues, 4, 3): a histogram, smoothed by 10°, and its densest bins."""
        phi, psi = torch.cat([_phi_psi(coords) for coords in chains]).unbind(-1)
        counts = torch.zeros(BINS, BINS, dtype=torch.float64)
        counts.index_put_((_bin(phi), _bin(psi)), counts.new_ones(len(phi)), accumulate=True)
        offset = torch.arange(BINS, dtype=torch.float64) * 360 / BINS
        kernel = torch.exp(-0.5 * (torch.minimum(offset, 360 - offset) / SMOOTHING) ** 2)
        near = torch.stack([kernel.roll(i) for i in range(BINS)]) / kernel.sum()
        density = near @ counts @ near.T / counts.sum()
        order = density.flatten().argsort(descending=True)
        held = counts.flatten()[order].cumsum(0) / counts.sum()
        return cls(density, float(density.flatten()[order][int((held < REGION).sum())]))

    def inside(self, coords: Tensor) -> float:
        """Share of a backbone's residues within the region."""
        phi, psi = _phi_psi(coords).unbind(-1)
        return float((self.density[_bin(phi), _bin(psi)] >= self.bound).float().mean())


def _phi_psi(coords: Tensor) -> Tensor:
    """φ and ψ of the residues that have both, in radians: (residues - 2, 2)."""
    return geometry.torsions(coords)[1:-1, :2]


def _bin(angle: Tensor) -> Tensor:
    return ((angle + math.pi) / (2 * math.pi) * BINS).long().clamp(0, BINS - 1)
