"""metatomic itself: its calculator drives our potentials as an ``AtomisticModel``, and checks what it gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiformer_pytorch.atoms import Input
from tests.atoms import potentials
from tests.atoms.kinds import CONSERVATIVE, KINDS, build
from tests.clients.common import Atoms, assert_near, crystal, molecule, needs, with_calculator

metatomic = needs("metatomic.torch", "metatomic")
calculators = needs("metatomic_ase", "metatomic")

from equiformer_pytorch.clients.metatomic import atomistic_model  # noqa: E402

pytestmark = pytest.mark.slow


def by_metatomic(atoms: Atoms, model, **options) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calculators.MetatomicCalculator(
        model, check_consistency=True, do_gradients_with_energy=False, device="cpu", **options
    )
    return atoms


@pytest.mark.parametrize("make", [crystal, molecule], ids=["crystal", "molecule"])
@pytest.mark.parametrize("kind", CONSERVATIVE)
def test_energies_and_their_derivatives(kind: str, make) -> None:
    model, atoms = build(kind), make()
    found, ours = by_metatomic(atoms, atomistic_model(model)), with_calculator(atoms, model)
    assert_near(found.get_potential_energy(), ours.get_potential_energy())
    assert_near(found.get_potential_energies(), ours.get_potential_energies())
    assert_near(found.get_forces(), ours.get_forces())
    if atoms.pbc.all():
        assert_near(found.get_stress(), ours.get_stress())
    assert next(model.parameters()).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_forces_as_the_potential_gives_them(kind: str) -> None:
    model, atoms = build(kind), crystal()
    whole = True if "stress" in model.gives else "forces"
    found, ours = by_metatomic(atoms, atomistic_model(model), non_conservative=whole), with_calculator(atoms, model)
    forces = ours.get_forces()
    assert_near(found.get_forces(), forces - forces.mean(0))  # metatomic takes out what remains
    if whole is True:
        assert_near(found.get_stress(), ours.get_stress())


def test_several_systems_and_what_is_refused() -> None:
    model = potentials.potential(inputs={"charge": Input(least=-2, most=2)})
    atomistic = atomistic_model(model, inputs={"charge": 1})
    both = [crystal((1, 1, 1)), molecule()]
    found = by_metatomic(both[0], atomistic).calc.compute_energy(both, compute_forces_and_stresses=False)["energy"]
    for atoms, energy in zip(both, found, strict=True):
        ours = with_calculator(atoms, model)
        ours.info["charge"] = 1
        assert_near(np.squeeze(energy), ours.get_potential_energy())
    with pytest.raises(ValueError, match="spin"):
        atomistic_model(model, inputs={"spin": 1})
    with pytest.raises(ValueError, match="float32 or float64"):
        atomistic_model(model, dtype=torch.float16)
    with pytest.raises(ValueError, match="79"):
        by_metatomic(Atoms("Au"), atomistic).get_potential_energy()
