"""The geometry of a backbone: residues as rigid frames, and what is measured of them.

A backbone is a tensor (…, residues, 4, 3) of N, CA, C and O in Å. A residue's frame stands at CA; its x axis points to
C, N lies in the plane of x and y with y > 0, and z = x × y. In its frame every residue looks the same (`residue`), but
for O, which lies in the plane of the peptide bond, so depends on where the next residue is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Means of the shipped chains, Å and degrees; within 0.006 Å and 0.6° those of Engh & Huber (1991).
N_CA, CA_C, C_O, C_N = 1.460, 1.525, 1.232, 1.330
N_CA_C, CA_C_O, CA_C_N, C_N_CA = 111.1, 120.5, 116.6, 121.4
CA_CA = 3.805  # of a trans peptide
LAST_PSI = 140.0  # degrees: where the last residue's O is put, as if a strand went on


@dataclass(frozen=True)
class Frames:
    """Positions and orientations of residues: a point p of a residue's frame is at `rotation @ p + origin`."""

    rotation: Tensor  # (…, n, 3, 3): the columns are the axes x, y, z
    origin: Tensor  # (…, n, 3), Å

    def apply(self, points: Tensor) -> Tensor:
        """Where points (…, n, k, 3) of the residues' frames are."""
        return torch.einsum("...ij,...kj->...ki", self.rotation, points) + self.origin[..., None, :]

    def where(self, chosen: Tensor, others: Frames) -> Frames:
        """These where `chosen` (…, n) is true, else the others."""
        rotation = torch.where(chosen[..., None, None], self.rotation, others.rotation)
        return Frames(rotation, torch.where(chosen[..., None], self.origin, others.origin))

    def local(self, points: Tensor) -> Tensor:
        """The inverse: what points (…, n, k, 3) are in the residues' frames."""
        return torch.einsum("...ij,...ki->...kj", self.rotation, points - self.origin[..., None, :])


def residue(dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """N, CA and C of every residue in its frame: (3, 3)."""
    angle = math.radians(N_CA_C)
    atoms = [[N_CA * math.cos(angle), N_CA * math.sin(angle), 0.0], [0.0, 0.0, 0.0], [CA_C, 0.0, 0.0]]
    return torch.tensor(atoms, dtype=dtype, device=device)


def frames_of(coords: Tensor) -> Frames:
    """The frames of residues of which N, CA and C are the first atoms: (…, n, ≥ 3, 3)."""
    n, ca, c = coords[..., 0, :], coords[..., 1, :], coords[..., 2, :]
    x = _unit(c - ca)
    y = n - ca
    y = _unit(y - (y * x).sum(-1, keepdim=True) * x)
    return Frames(torch.stack((x, y, torch.linalg.cross(x, y)), -1), ca)


def atoms_of(frames: Frames, mask: Tensor | None = None) -> Tensor:
    """N, CA, C and O of residues of ideal geometry: (…, n, 4, 3).

    Args:
        frames: where the residues are.
        mask: (…, n), which residues there are, if some are padding. A residue without a next one has its O where the
            chain would go on as a strand.
    """
    ideal = residue(frames.origin.dtype, frames.origin.device)
    atoms = frames.apply(ideal.expand(*frames.origin.shape[:-1], 3, 3))
    ca, c = atoms[..., 1, :], atoms[..., 2, :]
    # What N of the next residue would be: at the angle CA–C–N, and turned by psi about CA–C from N.
    angle, psi = math.radians(CA_C_N), math.radians(LAST_PSI)
    beyond = ideal.new_tensor(
        [CA_C - C_N * math.cos(angle), C_N * math.sin(angle) * math.cos(psi), C_N * math.sin(angle) * math.sin(psi)]
    )
    following = frames.apply(beyond.expand(*frames.origin.shape[:-1], 1, 3))[..., 0, :]
    there = torch.ones_like(frames.origin[..., 1:, 0], dtype=torch.bool) if mask is None else mask[..., 1:]
    after = torch.where(there[..., None], atoms[..., 1:, 0, :], following[..., :-1, :])
    return torch.cat((atoms, _oxygen(ca, c, torch.cat((after, following[..., -1:, :]), -2))[..., None, :]), -2)


def _oxygen(ca: Tensor, c: Tensor, after: Tensor) -> Tensor:
    """O in the plane of CA, C and the next N, opposite to N: (…, 3)."""
    back = _unit(ca - c)
    side = after - c
    side = _unit(side - (side * back).sum(-1, keepdim=True) * back)
    angle = math.radians(CA_C_O)
    return c + C_O * (math.cos(angle) * back - math.sin(angle) * side)


def grow(torsions: Tensor) -> Frames:
    """Residues of ideal geometry with given φ, ψ and ω, (…, n, 3) in radians, the first one at the origin: (…, n).

    The first φ and the last ψ and ω are not used; ω is that of the bond to the next residue.
    """
    ideal = residue(torsions.dtype, torsions.device).expand(*torsions.shape[:-2], 3, 3)
    residues = [ideal]
    for i in range(torsions.shape[-2] - 1):
        n, ca, c = residues[-1].unbind(-2)
        next_n = _place(n, ca, c, C_N, CA_C_N, torsions[..., i, 1])
        next_ca = _place(ca, c, next_n, N_CA, C_N_CA, torsions[..., i, 2])
        next_c = _place(c, next_n, next_ca, CA_C, N_CA_C, torsions[..., i + 1, 0])
        residues.append(torch.stack((next_n, next_ca, next_c), -2))
    return frames_of(torch.stack(residues, -3))


def _place(a: Tensor, b: Tensor, c: Tensor, length: float, degrees: float, torsion: Tensor) -> Tensor:
    """The point at a distance from c, an angle at c with b, and a torsion angle a–b–c–point: (…, 3)."""
    x = _unit(c - b)
    y = a - b
    y = _unit(y - (y * x).sum(-1, keepdim=True) * x)
    z = torch.linalg.cross(x, y)
    bend, torsion = math.radians(degrees), torsion[..., None]
    return c + length * (math.sin(bend) * (torsion.cos() * y + torsion.sin() * z) - math.cos(bend) * x)


def torsions(coords: Tensor) -> Tensor:
    """φ, ψ and ω of each residue in radians, (…, n, 3); ω is that of the bond to the next residue.

    NaN where there is none: φ of the first residue, ψ and ω of the last.
    """
    n, ca, c = coords[..., 0, :], coords[..., 1, :], coords[..., 2, :]
    none = coords.new_full((*coords.shape[:-3], 1), math.nan)
    phi = dihedral(c[..., :-1, :], n[..., 1:, :], ca[..., 1:, :], c[..., 1:, :])
    psi = dihedral(n[..., :-1, :], ca[..., :-1, :], c[..., :-1, :], n[..., 1:, :])
    omega = dihedral(ca[..., :-1, :], c[..., :-1, :], n[..., 1:, :], ca[..., 1:, :])
    return torch.stack((torch.cat((none, phi), -1), torch.cat((psi, none), -1), torch.cat((omega, none), -1)), -1)


def bonds(coords: Tensor) -> dict[str, Tensor]:
    """Lengths of the bonds in Å: three within each residue (…, n), and C–N to the next one (…, n - 1)."""
    n, ca, c, o = coords.unbind(-2)
    return {
        "N–CA": (ca - n).norm(dim=-1),
        "CA–C": (c - ca).norm(dim=-1),
        "C–O": (o - c).norm(dim=-1),
        "C–N": (n[..., 1:, :] - c[..., :-1, :]).norm(dim=-1),
    }


def angles(coords: Tensor) -> dict[str, Tensor]:
    """Bond angles in radians: two within each residue (…, n), three at the bond to the next one (…, n - 1)."""
    n, ca, c, o = coords.unbind(-2)
    here, after = (..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))
    return {
        "N–CA–C": angle(n, ca, c),
        "CA–C–O": angle(ca, c, o),
        "CA–C–N": angle(ca[here], c[here], n[after]),
        "O–C–N": angle(o[here], c[here], n[after]),
        "C–N–CA": angle(c[here], n[after], ca[after]),
    }


def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The angle at b of points (…, 3), in radians: (…)."""
    one, other = a - b, c - b
    return torch.atan2(torch.linalg.cross(one, other).norm(dim=-1), (one * other).sum(-1))


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The torsion angle a–b–c–d of points (…, 3), in radians from −π to π (IUPAC's sign): (…)."""
    axis = c - b
    one, other = torch.linalg.cross(b - a, axis), torch.linalg.cross(axis, d - c)
    return torch.atan2((_unit(axis) * torch.linalg.cross(one, other)).sum(-1), (one * other).sum(-1))


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length one; those of length zero stay."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-8)
