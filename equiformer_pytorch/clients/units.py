"""Units of programs, in eV and Å."""

from __future__ import annotations

from dataclasses import dataclass

# CODATA 2018, exact: the charge of the electron in C, and Avogadro's constant per mol.
ELECTRON, AVOGADRO = 1.602176634e-19, 6.02214076e23
KJ_PER_MOL = 1e3 / AVOGADRO / ELECTRON
"""eV."""
KCAL_PER_MOL = 4.184 * KJ_PER_MOL
"""eV."""


@dataclass(frozen=True)
class Units:
    """What a program counts in."""

    energy: float
    """eV."""
    length: float
    """Å."""
