"""Hessians: exact, symmetric, what ASE's vibrations take."""

import numpy as np
import pytest
import torch

pytest.importorskip("ase")
from ase import Atoms
from ase.vibrations import Vibrations, VibrationsData

from equiformer_pytorch.atoms import EquiformerCalculator, hessian
from tests.atoms import potentials
from tests.atoms.kinds import CONSERVATIVE, KINDS, build, relative


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_of_the_energy(kind):
    model = build(kind)
    for structure in (potentials.molecule(4), potentials.crystal()):
        found = hessian(model, structure)
        atoms = len(structure["pos"])
        assert found.shape == (atoms, 3, atoms, 3)
        wanted = torch.autograd.functional.hessian(
            lambda pos, s=structure: model.evaluate({**s, "pos": pos}, forces=False)["energy"].sum(), structure["pos"]
        )
        assert relative(found, wanted) < 1e-10
        assert torch.equal(found, found.permute(2, 3, 0, 1))
        assert found.sum(2).abs().max() < 1e-10 * found.abs().max()  # nothing happens when all atoms move alike
        if kind in CONSERVATIVE:
            forces = torch.autograd.functional.jacobian(
                lambda pos, s=structure: model.evaluate({**s, "pos": pos})["forces"], structure["pos"]
            )
            assert relative(found, -forces) < 1e-10


@pytest.mark.parametrize("kind", CONSERVATIVE)
def test_anywhere(kind):
    """Without gradients, in inference mode, of an atom alone, in single precision."""
    model, structure = build(kind), potentials.molecule(4)
    wanted = hessian(model, structure)
    with torch.no_grad():
        assert torch.equal(hessian(model, structure), wanted)
    with torch.inference_mode():
        assert torch.equal(hessian(model, {name: x.clone() for name, x in structure.items()}), wanted)
    assert not wanted.requires_grad
    alone = hessian(model, {name: x[:1] for name, x in structure.items()})
    assert alone.tolist() == torch.zeros(1, 3, 1, 3).tolist()
    assert relative(hessian(model.float(), structure), wanted) < 1e-3


@pytest.mark.parametrize("kind", CONSERVATIVE)
def test_vibrations(kind, tmp_path):
    """The frequencies that ASE finds by moving atoms."""
    structure = potentials.molecule(4)
    atoms = Atoms(
        structure["atomic_numbers"].numpy(), structure["pos"].numpy(), calculator=EquiformerCalculator(build(kind))
    )
    moved = Vibrations(atoms, name=str(tmp_path / "vibrations"), delta=1e-4)
    moved.run()
    exact = VibrationsData(atoms, atoms.calc.get_hessian(atoms))
    numeric = moved.get_vibrations()
    assert np.abs(exact.get_hessian() - numeric.get_hessian()).max() < 1e-5 * np.abs(exact.get_hessian()).max()
    squares = [np.real(data.get_frequencies() ** 2) for data in (exact, numeric)]  # of some the root is imaginary
    assert np.abs(squares[0] - squares[1]).max() < 1e-5 * np.abs(squares[0]).max()
