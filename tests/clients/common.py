"""What the tests of programs share: which have to be there, structures, and what ASE has of the same potential."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

ase = pytest.importorskip("ase", reason="needs the extra atoms")

from equiformer_pytorch.atoms import EquiformerCalculator, Potential  # noqa: E402
from tests.atoms import potentials  # noqa: E402

Atoms = ase.Atoms


def needs(module: str, extra: str, python: tuple[int, int] = (3, 10)) -> Any:
    """The module of a program. Where it is missing its tests are left out; but not in CI, where it has to be installed
    on each Python that there is a wheel for, from `python` on."""
    if find_spec(module.split(".")[0]) is None and (sys.version_info < python or not os.environ.get("CI")):
        pytest.skip(f"needs the extra {extra}", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they use of others' that is going to change
        return import_module(module)


def crystal(repeat: tuple[int, int, int] = (2, 2, 2)) -> Atoms:
    """Triclinic, as programs want it: a along x, b in the plane of x and y."""
    given = potentials.crystal(0)
    atoms = Atoms(given["atomic_numbers"].numpy(), given["pos"].numpy(), cell=given["cell"][0].numpy(), pbc=True)
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return atoms * repeat


def molecule(count: int = 8) -> Atoms:
    """Without a cell."""
    given = potentials.molecule(count, 3)
    return Atoms(given["atomic_numbers"].numpy(), given["pos"].numpy())


def with_calculator(atoms: Atoms, model: Potential) -> Atoms:
    """A copy with our calculator."""
    atoms = atoms.copy()
    atoms.calc = EquiformerCalculator(model)
    return atoms


def assert_conserved(total: Any, kinetic: Any) -> None:
    """Of a run: the total energy stays, while potential and kinetic energy are exchanged."""
    total, kinetic = np.array(total), np.array(kinetic)
    assert np.ptp(kinetic) > 1e-4
    assert np.ptp(total) < 0.02 * np.ptp(kinetic)


def assert_near(found: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    """Relative to the largest entry."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()
