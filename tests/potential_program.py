"""What tests of `examples.train_potential` share: data, and calls of the program."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, write

from equiformer_pytorch.cli.program import main
from examples import train_potential
from tests.programs import exit_code

ROOT = Path(train_potential.__file__).resolve().parents[1]


def call(*arguments: object) -> int:
    """The program in this process; its exit code."""
    return exit_code(partial(main, train_potential.PROGRAM), arguments)


def make_data(folder: Path) -> Path:
    """Rattled molecules with the energies and forces of a Morse potential."""
    generator = np.random.default_rng(0)
    for split, names in {
        "train": ("CH4", "H2O"),
        "valid": ("H2O",),
        "test": ("CH4",),
        "test_molecules": ("CO2",),
    }.items():
        frames = []
        for name in names * 6:
            atoms = molecule(name)
            atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
            atoms.calc = MorsePotential(r0=1.2, rho0=2.0, epsilon=1.0, rcut1=3.0, rcut2=4.0)
            labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **labels)
            frames.append(atoms)
        write(folder / f"{split}.xyz", frames, format="extxyz")
    return folder


def make_crystals(folder: Path) -> Path:
    """Strained and rattled aluminium with the energies, forces and stress of EMT."""
    generator = np.random.default_rng(0)
    for split, count in {"train": 12, "valid": 4, "test": 4}.items():
        frames = []
        for _ in range(count):
            atoms = bulk("Al", cubic=True)
            atoms.set_cell(atoms.cell @ (np.eye(3) + generator.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
            atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
            atoms.calc = EMT()
            labels = {
                "energy": atoms.get_potential_energy(),
                "forces": atoms.get_forces(),
                "stress": atoms.get_stress(),
            }
            atoms.calc = SinglePointCalculator(atoms, **labels)
            frames.append(atoms)
        write(folder / f"{split}.xyz", frames, format="extxyz")
    return folder


def frames_of(path: Path) -> list[Atoms]:
    """All structures of a file."""
    return list(iread(path, ":"))
