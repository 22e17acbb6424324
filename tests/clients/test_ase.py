"""ASE's own methods with a trained potential (tests/data/build_aluminium.py), beside the theory that it learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.clients.common import Atoms, assert_near
from tests.data.build_aluminium import FILE, cluster, crystal, with_vacancy

from ase import units  # isort: skip
from ase.build import bulk  # isort: skip
from ase.calculators.emt import EMT  # isort: skip
from ase.filters import FrechetCellFilter  # isort: skip
from ase.md.nose_hoover_chain import IsotropicMTKNPT  # isort: skip
from ase.mep import NEB  # isort: skip
from ase import optimize  # isort: skip
from ase.phonons import Phonons  # isort: skip
from ase.vibrations import Vibrations, VibrationsData  # isort: skip

from equiformer_pytorch.atoms import EquiformerCalculator

pytestmark = pytest.mark.slow

# ASE says that they take atoms alone and write a file.
BFGS: Any = optimize.BFGS
FIRE: Any = optimize.FIRE


def ours() -> EquiformerCalculator:
    return EquiformerCalculator(FILE, dtype=torch.float64)


def relaxed(atoms: Atoms, calculator, fmax: float = 1e-3) -> Atoms:
    atoms.calc = calculator
    assert BFGS(atoms, logfile=None).run(fmax=fmax, steps=200)
    return atoms


def test_cell_and_atoms_relax() -> None:
    """A strained and rattled crystal finds back to the lattice constant of the theory."""
    found = []
    for calculator in (ours(), EMT()):
        atoms = crystal()
        atoms.set_cell(atoms.cell.array @ [[1.02, 0.01, 0], [0, 0.99, 0.01], [0.01, 0, 1.03]], scale_atoms=True)
        atoms.rattle(0.05, seed=1)
        atoms.calc = calculator
        before = atoms.get_potential_energy()
        assert FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=2e-3, steps=500)
        assert atoms.get_potential_energy() < before - 0.01
        assert np.abs(atoms.get_stress()).max() < 3e-4
        found.append(atoms.get_volume() ** (1 / 3))
    assert found[0] == pytest.approx(found[1], rel=0.01)


def test_constant_pressure_and_temperature() -> None:
    """What the extended system conserves stays, while the volume changes."""
    atoms = crystal() * (2, 2, 2)
    atoms.calc = ours()
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(
        atoms.get_masses()[:, None] * units.kB * 300
    )
    atoms.set_momenta(momenta - momenta.mean(0))
    dynamics = IsotropicMTKNPT(
        atoms, 1 * units.fs, temperature_K=300, pressure_au=0.0, tdamp=50 * units.fs, pdamp=200 * units.fs
    )
    conserved, volumes, kinetic = [], [], []
    for _ in range(40):
        dynamics.run(5)
        conserved.append(dynamics.get_conserved_energy())
        volumes.append(atoms.get_volume())
        kinetic.append(atoms.get_kinetic_energy())
    assert np.ptp(volumes) > 0.001 * volumes[0]
    assert np.ptp(conserved) < 0.02 * np.ptp(kinetic)


def barrier(calculator) -> np.ndarray:
    """Energies on the way of an atom into the empty place beside it."""
    start = relaxed(with_vacancy(), calculator, 0.01)
    end = start.copy()
    near = int(np.argmin(np.linalg.norm(end.positions - [2, 2, 0], axis=1)))
    end.positions[near] -= [2, 2, 0]
    end = relaxed(end, calculator, 0.01)
    images = [start, *(start.copy() for _ in range(3)), end]
    for image in images[1:-1]:
        image.calc = calculator
    band = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate(mic=True)
    assert FIRE(band, logfile=None).run(fmax=0.05, steps=200)
    energies = np.array([image.get_potential_energy() for image in images])
    return energies - energies[0]


def test_nudged_elastic_band() -> None:
    found, theory = barrier(ours()), barrier(EMT())
    assert found[2] == found.max()
    assert_near(found, found[::-1], 0.02)  # there as back
    assert found[2] == pytest.approx(theory[2], rel=0.2)


def frequencies(calculator, folder: Path) -> np.ndarray:
    """Of phonons at Γ, half way to X, and X, in eV."""
    phonons = Phonons(bulk("Al", a=4.0), calculator, supercell=(3, 3, 3), delta=0.02, name=str(folder / "phonons"))
    phonons.run()
    phonons.read(acoustic=True)
    return np.asarray(phonons.band_structure([(0, 0, 0), (0.25, 0, 0.25), (0.5, 0, 0.5)]))


def test_phonons(tmp_path: Path) -> None:
    found, theory = frequencies(ours(), tmp_path / "ours"), frequencies(EMT(), tmp_path / "theory")
    assert np.abs(found[0]).max() < 1e-4
    assert_near(found[1:], theory[1:], 0.15)


def test_vibrations(tmp_path: Path) -> None:
    """By differences, and by exact second derivatives: six modes are those of the whole."""
    atoms = relaxed(cluster(), ours(), 1e-4)
    by_differences = Vibrations(atoms, name=str(tmp_path / "vibrations"), delta=0.005)
    by_differences.run()
    exact = np.array(VibrationsData(atoms, atoms.calc.get_hessian(atoms)).get_energies())
    found = np.array(by_differences.get_energies())
    assert_near(np.sort(np.real(found))[-6:], np.sort(np.real(exact))[-6:], 0.01)
    assert np.sort(np.abs(exact))[:6].max() < 0.03 * np.abs(exact).max()
    theory = Vibrations(relaxed(cluster(), EMT(), 1e-4), name=str(tmp_path / "theory"), delta=0.005)
    theory.run()
    assert_near(np.sort(np.real(exact))[-6:], np.sort(np.real(theory.get_energies()))[-6:], 0.15)
