"""What there is to learn of a molecule of QM9: names in the files, units, and how it is read out of atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HARTREE = 27.211386245988  # eV
SPECIES = (1, 6, 7, 8, 9)

Kind = Literal["sum", "mean", "length", "extent", "tensor"]
"""A sum over atoms; a mean; the length of the dipole moment; a second moment of charge; a symmetric matrix."""


@dataclass(frozen=True)
class Property:
    """A column of the files, or six; `factor` takes its unit there to `unit`."""

    columns: tuple[str, ...]
    unit: str
    kind: Kind
    factor: float = 1.0
    atoms: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    """Of isolated atoms of `SPECIES`, in the unit of the files: what is left is the atomisation energy."""


def _energy(column: str, *atoms: float) -> Property:
    return Property((column,), "eV", "sum", HARTREE, atoms)


# The atoms are those of the data set's own table (Ramakrishnan et al. 2014), B3LYP/6-31G(2df,p).
PROPERTIES = {
    "mu": Property(("Dipole_debye",), "D", "length"),
    "alpha": Property(("Polarizability_bohr3",), "a0³", "sum"),
    "homo": Property(("HOMO_au",), "eV", "mean", HARTREE),
    "lumo": Property(("LUMO_au",), "eV", "mean", HARTREE),
    "gap": Property(("HOMO_LUMO_gap_au",), "eV", "mean", HARTREE),
    "r2": Property(("R2_bohr2",), "a0²", "extent"),
    "zpve": Property(("ZPVE_au",), "eV", "sum", HARTREE),
    "u0": _energy("InternalEnergy_0K_au", -0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "u": _energy("InternalEnergy_298K_au", -0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "h": _energy("Enthalphy_298K_au", -0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "g": _energy("GibbsFreeEnergy_298K_au", -0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
    "cv": Property(("Heatcapacity_Cv_cal_mol_K",), "cal/(mol K)", "sum", 1.0, (2.981,) * 5),
    "tensor": Property(("A_xx", "A_xy", "A_yy", "A_xz", "A_yz", "A_zz"), "a0³", "tensor"),
}
COLUMNS = tuple(column for each in PROPERTIES.values() for column in each.columns)
