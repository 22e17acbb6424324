"""OpenMM itself, by OpenMM-ML: with ASE's calculator, and by our own entry point without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiformer_pytorch.atoms import EquiformerCalculator, Input
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, build
from tests.clients.common import Atoms, assert_conserved, assert_near, crystal, molecule, needs, with_calculator

openmm = needs("openmm", "openmm")
openmmml = needs("openmmml", "openmm")
from openmm import app  # noqa: E402

unit: Any = openmm.unit  # its units are made as it is imported

pytestmark = pytest.mark.slow

KJ = 96.48533212331
"""Of an eV, in kJ/mol."""


def topology_of(atoms: Atoms) -> Any:
    """With box vectors where there is a cell."""
    topology = app.Topology()
    residue = topology.addResidue("ALL", topology.addChain())
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    if atoms.pbc.any():
        topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in atoms.cell.array / 10] * unit.nanometer)
    return topology


def context_of(system: Any, atoms: Atoms, femtoseconds: float = 0.1) -> Any:
    integrator = openmm.VerletIntegrator(femtoseconds * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions * unit.angstrom)
    return context


def energy_and_forces(context: Any) -> tuple[float, np.ndarray]:
    """In eV and eV/Å."""
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole) / KJ, np.asarray(forces) / KJ


def reduced() -> Atoms:
    """The crystal, in a cell that OpenMM takes."""
    atoms = crystal((1, 1, 1))
    atoms.set_cell([[4.2, 0, 0], [0.6, 4.4, 0], [-0.5, 0.7, 4.6]], scale_atoms=True)
    return atoms * (2, 2, 2)


@pytest.mark.parametrize("way", ["ase", "own"])
@pytest.mark.parametrize("make", [reduced, molecule], ids=["crystal", "molecule"])
def test_energy_is_ours_and_conserved(make: Any, way: str, tmp_path: Path) -> None:
    model, atoms = build("own"), make()
    if way == "ase":
        system = openmmml.MLPotential("ase").createSystem(topology_of(atoms), calculator=EquiformerCalculator(model))
    else:
        model.save(tmp_path / "potential.pt")
        potential = openmmml.MLPotential("equiformer", modelPath=str(tmp_path / "potential.pt"))
        system = potential.createSystem(topology_of(atoms))
    context = context_of(system, atoms)
    ours = with_calculator(atoms, model)
    # Between a PythonForce and ASE lie constants of other years.
    tolerance = 1e-7 if way == "ase" else 1e-9
    for found, wanted in zip(energy_and_forces(context), (ours.get_potential_energy(), ours.get_forces()), strict=True):
        assert_near(found, wanted, tolerance)
    context.setVelocitiesToTemperature(unit.Quantity(300, unit.kelvin), 1)
    total, kinetic = [], []
    for _ in range(20):
        context.getIntegrator().step(5)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy().value_in_unit(unit.kilojoules_per_mole) / KJ)
        total.append(state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole) / KJ + kinetic[-1])
    assert_conserved(total, kinetic)
    ours.positions = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    assert_near(energy_and_forces(context)[0], ours.get_potential_energy(), tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_by_the_entry_point(kind: str) -> None:
    model, atoms = build(kind), molecule()
    system = openmmml.MLPotential("equiformer", modelPath=model).createSystem(topology_of(atoms))
    ours = with_calculator(atoms, model)
    energy, forces = energy_and_forces(context_of(system, atoms))
    assert_near(energy, ours.get_potential_energy())
    assert_near(forces, ours.get_forces())


@pytest.mark.parametrize("interpolate", [False, True])
def test_a_part_of_a_system(interpolate: bool) -> None:
    """The first atoms by the potential, all by springs: each energy is where it belongs."""
    model, atoms = build("own"), molecule(8)
    mechanics = openmm.System()
    springs = openmm.HarmonicBondForce()
    for _ in atoms:
        mechanics.addParticle(1.0)
    springs.addBond(6, 7, 0.1, 1000.0)
    mechanics.addForce(springs)
    potential = openmmml.MLPotential("equiformer", modelPath=model)
    system = potential.createMixedSystem(topology_of(atoms), mechanics, range(5), interpolate=interpolate)
    spring = 500 * (atoms.get_distance(6, 7) / 10 - 0.1) ** 2 / KJ
    energy, forces = energy_and_forces(context_of(system, atoms))
    ours = with_calculator(atoms[:5], model)
    assert_near(energy, ours.get_potential_energy() + spring)
    assert_near(forces[:5], ours.get_forces())


def test_charges_and_what_is_refused() -> None:
    model = potentials.potential(inputs={"charge": Input(least=-2, most=2)})
    with_charge = molecule()
    potential = openmmml.MLPotential("equiformer", modelPath=model)
    system = potential.createSystem(topology_of(with_charge), inputs={"charge": 1})
    ours = with_calculator(with_charge, model)
    neutral = ours.get_potential_energy()
    ours.info["charge"] = 1
    assert abs(ours.get_potential_energy() - neutral) > 1e-3
    assert_near(energy_and_forces(context_of(system, with_charge))[0], ours.get_potential_energy())
    with pytest.raises(ValueError, match="spin"):
        potential.createSystem(topology_of(with_charge), inputs={"spin": 1})
    with pytest.raises(ValueError, match=r"elements has \[79\]"):
        potential.createSystem(topology_of(Atoms("Au")))
    system = potential.createSystem(topology_of(Atoms("C2", [[0, 0, 0], [0, 0, 1]])))
    context = context_of(system, Atoms("C2", [[0, 0, 0], [0, 0, 0]]))
    with pytest.raises(openmm.OpenMMException, match="on top of each other"):
        context.getState(energy=True)


def test_importing_openmmml_takes_no_torch() -> None:
    """It loads every entry point: ours waits until it is wanted."""
    code = (
        "import openmmml, sys; assert 'equiformer' in openmmml.MLPotential._implFactories;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
