"""Potentials and structures that the tests of atoms share."""

from __future__ import annotations

import torch
from torch import Tensor

from equiformer_pytorch.atoms import EquiformerPotential, Target

CUTOFF = 3.0
SPECIES = (1, 6, 8)


def potential(*, noise: float = 0.1, **options) -> EquiformerPotential:
    """A small one in float64 whose branches do not start at zero."""
    torch.manual_seed(1)
    given = {"species": SPECIES, "cutoff": CUTOFF, "dim": (8, 6, 4), "num_degrees": 3, "depth": 2, "heads": 2}
    given |= {"dim_head": 4}
    model = EquiformerPotential(**given | options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model


WITH_TARGETS = {
    "dipole": Target(1, "structure"),
    "charges": Target(0),
    "quadrupole": Target(2, "structure", 2),
    "gaps": Target(0, "structure", 3),
}


def molecule(atoms: int, seed: int = 0, size: float = 1.6) -> dict[str, Tensor]:
    """Random atoms at least 0.7 Å apart."""
    generator = torch.Generator().manual_seed(seed)
    placed: list[Tensor] = []
    while len(placed) < atoms:
        new = torch.randn(3, generator=generator, dtype=torch.float64) * size
        if all((new - old).norm() > 0.7 for old in placed):
            placed.append(new)
    numbers = torch.tensor(SPECIES)[torch.randint(0, len(SPECIES), (atoms,), generator=generator)]
    return {"atomic_numbers": numbers, "pos": torch.stack(placed)}


def crystal(seed: int = 0) -> dict[str, Tensor]:
    """A triclinic cell, smaller than the cutoff in one direction, with three atoms."""
    generator = torch.Generator().manual_seed(seed)
    cell = torch.tensor([[3.4, 0.2, 0.0], [0.7, 2.7, 0.3], [-0.4, 0.5, 4.1]], dtype=torch.float64)
    fractions = torch.tensor([[0.1, 0.1, 0.1], [0.6, 0.5, 0.4], [0.2, 0.6, 0.8]], dtype=torch.float64)
    fractions = fractions + 0.03 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    return {"atomic_numbers": torch.tensor([1, 6, 8]), "pos": fractions @ cell, "cell": cell[None]}


def together(structures: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of several structures."""
    out = {name: torch.cat([s[name] for s in structures]) for name in structures[0]}
    counts = torch.tensor([len(s["pos"]) for s in structures])
    return out | {"batch": torch.arange(len(structures)).repeat_interleave(counts)}
