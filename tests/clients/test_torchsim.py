"""TorchSim itself: its own checks of models, and its integrators and optimisers, with potentials of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equiformer_pytorch.atoms import Potential
from tests import published_cases
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, build
from tests.clients.common import assert_conserved, assert_near, crystal, molecule, needs, with_calculator

ts = needs("torch_sim", "torchsim", python=(3, 11))
from torch_sim.models.interface import validate_model_outputs  # noqa: E402  # pyright: ignore[reportMissingImports]

from equiformer_pytorch.clients.torchsim import EquiformerModel  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Optimize has reached max steps")]


def silicon_and_iron(kind: str) -> Potential:
    """Of the elements that TorchSim's own checks are made of."""
    if kind == "own":
        return potentials.potential(species=(14, 26))
    return published_cases.build(kind, max_num_elements=30)


@pytest.mark.parametrize("kind", ["own", "v2", "v3", "gradient"])
def test_its_own_checks(kind: str) -> None:
    model = EquiformerModel(silicon_and_iron(kind))
    validate_model_outputs(model, model.device, model.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_what_ase_has(kind: str) -> None:
    potential = build(kind)
    model, both = EquiformerModel(potential), [crystal((1, 1, 1)), crystal((2, 1, 1))]
    state = ts.io.atoms_to_state(both, model.device, model.dtype)
    found, start = model(state), 0
    assert model.compute_stress == ("stress" in potential.gives)
    for place, atoms in enumerate(both):
        ours = with_calculator(atoms, potential)
        assert_near(found["energy"][place], ours.get_potential_energy())
        assert_near(found["forces"][start : start + len(atoms)], ours.get_forces())
        if model.compute_stress:
            assert_near(found["stress"][place], ours.get_stress(voigt=False))
        start += len(atoms)


def test_molecules_and_what_is_refused() -> None:
    potential, atoms = build("v2"), molecule()
    with pytest.raises(NotImplementedError, match="stress is wanted"):
        EquiformerModel(potential, compute_stress=True)
    model = EquiformerModel(potential, dtype=torch.float32, compute_forces=False)
    state = ts.io.atoms_to_state([atoms], model.device, model.dtype)
    found = model(state)
    assert found["energy"].dtype == torch.float32
    assert "forces" not in found
    assert_near(found["energy"][0], with_calculator(atoms, potential).get_potential_energy(), 1e-5)
    assert next(potential.parameters()).dtype == torch.float64


def test_energy_is_conserved() -> None:
    potential = build("own")
    total, kinetic = [], []

    def energies(state: Any, _: Any = None) -> torch.Tensor:
        moving = ts.calc_kinetic_energy(momenta=state.momenta, masses=state.masses, system_idx=state.system_idx)
        kinetic.append(float(moving))
        total.append(float(state.energy + moving))
        return moving

    state = ts.integrate(
        system=crystal(),
        model=EquiformerModel(potential),
        integrator=ts.Integrator.nve if hasattr(ts, "Integrator") else ts.integrators.nve,
        n_steps=100,
        temperature=300.0,
        timestep=0.0001,
        trajectory_reporter=ts.TrajectoryReporter(None, prop_calculators={5: {"kinetic": energies}}),
    )
    assert len(total) == 20
    assert_conserved(total, kinetic)
    last = with_calculator(state.to_atoms()[0], potential)
    assert_near(state.energy[0], last.get_potential_energy())
    assert_near(state.forces, last.get_forces())


def test_relaxation() -> None:
    model = EquiformerModel(build("gradient"))
    start = ts.io.atoms_to_state([crystal((1, 1, 1))], model.device, model.dtype)
    optimizer = ts.Optimizer.fire if hasattr(ts, "Optimizer") else ts.optimizers.fire
    state = ts.optimize(system=start, model=model, optimizer=optimizer, max_steps=30)
    assert float(state.energy) < float(model(start)["energy"]) - 1e-3
