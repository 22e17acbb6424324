"""What data say of the zero of energy and of the size of energies and forces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from equiformer_pytorch.base.potential import HEAVIEST

# Forces smaller than this, in eV/Å, or than this share of the energies, in eV per root of an atom, are rounding: those
# of crystals at rest, of equations of state, of isolated atoms.
SMALLEST, SMALLEST_SHARE = 1e-6, 1e-3


@dataclass(frozen=True)
class References:
    """Energies of the elements, and a size of what is learned beside them."""

    energies: Float64[Tensor, " elements"]
    """By atomic number, eV; zero for elements that do not occur."""
    isolated: tuple[int, ...]
    """Elements whose energy is that of an atom alone."""
    fitted: tuple[int, ...]
    """Those found by least squares over the other structures."""
    scale: float | None
    """Root mean square of the force components, eV/Å; where forces are absent or rounding that of what energies have
    beyond the references, eV per root of an atom; None where that is nothing, too."""
    from_forces: bool

    def told(self, symbols: Mapping[int, str]) -> str:
        """Which came from where, in words."""
        ways = (("from isolated atoms", self.isolated), ("by least squares", self.fitted))
        parts = [f"{', '.join(symbols[z] for z in elements)} {way}" for way, elements in ways if elements]
        return f"reference energies: {'; '.join(parts) or 'none, since no structure has an energy'}"


def is_isolated(structure: Mapping[str, Tensor]) -> bool:
    """Whether it is an atom alone: said so, or without neighbours, also of itself."""
    if len(structure["atomic_numbers"]) != 1:
        return False
    if "isolated" in structure or "edge_index" in structure:
        return bool(structure.get("isolated", False)) or structure["edge_index"].shape[1] == 0
    return not bool(structure["pbc"].any()) if "pbc" in structure else "cell" not in structure


def find_references(structures: Iterable[Mapping[str, Tensor]]) -> References:
    """From structures with `atomic_numbers` and, where they have them, `energy` and `forces`, eV and eV/Å.

    The reference energy of an element is that of its atom alone where a structure is one (the lowest, if several are),
    so that energies of atomisation come out right; the others' are the least squares over compositions, the smallest
    ones where these leave a choice.

    Raises:
        ValueError: there is no structure.
    """
    alone: dict[int, float] = {}
    counts, energies, squares, components, empty = [], [], 0.0, 0, True
    for structure in structures:
        empty = False
        numbers = structure["atomic_numbers"].cpu()
        if "forces" in structure:
            squares += float(structure["forces"].double().square().sum())
            components += structure["forces"].numel()
        if "energy" not in structure:
            continue
        energy = float(structure["energy"])
        if is_isolated(structure):
            alone[int(numbers[0])] = min(energy, alone.get(int(numbers[0]), energy))
        else:
            counts.append(torch.bincount(numbers, minlength=HEAVIEST + 1))
            energies.append(energy)
    if empty:
        raise ValueError("structures is empty: nothing to fit reference energies to")
    found = torch.zeros(HEAVIEST + 1, dtype=torch.float64)
    for number, energy in alone.items():
        found[number] = energy
    fitted: tuple[int, ...] = ()
    beyond = 0.0
    if energies:
        composition, wanted = torch.stack(counts).double(), torch.tensor(energies, dtype=torch.float64)
        fitted = tuple(z for z in composition.any(0).nonzero()[:, 0].tolist() if z not in alone)
        if fitted:
            columns, missing = composition[:, list(fitted)], (wanted - composition @ found)[:, None]
            found[list(fitted)] = torch.linalg.lstsq(columns, missing, driver="gelsd").solution[:, 0]
        beyond = float(((wanted - composition @ found) / composition.sum(1).sqrt()).square().mean().sqrt())
    of_forces = (squares / components) ** 0.5 if components else 0.0
    from_forces = of_forces > max(SMALLEST, SMALLEST_SHARE * beyond)
    scale = of_forces if from_forces else beyond
    return References(found, tuple(sorted(alone)), fitted, scale if scale > SMALLEST else None, from_forces)
