"""The ASE calculator: what the potential says, neighbours kept while they hold, dynamics that conserve energy."""

from typing import Any

import numpy as np
import pytest
import torch

ase = pytest.importorskip("ase")
from ase import Atoms, units  # noqa: E402
from ase.build import fcc111, graphene, nanotube  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError  # noqa: E402
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.optimize import BFGS  # noqa: E402

from equiformer_pytorch import EquiformerV3  # noqa: E402
from equiformer_pytorch.atoms import EquiformerCalculator, Target  # noqa: E402
from tests.atoms.kinds import CONSERVATIVE, KINDS, build  # noqa: E402
from tests.atoms.potentials import crystal, molecule, potential  # noqa: E402


def as_atoms(structure: dict[str, torch.Tensor]) -> Atoms:
    cell = structure.get("cell")
    return Atoms(
        structure["atomic_numbers"].numpy(),
        structure["pos"].numpy(),
        cell=None if cell is None else cell[0].numpy(),
        pbc=cell is not None,
    )


def test_says_what_the_potential_says():
    model = potential(targets={"dipole": Target(1, "structure"), "charges": Target(0)})
    for structure in (molecule(6), crystal()):
        atoms = as_atoms(structure)
        atoms.calc = EquiformerCalculator(model)
        out = model(**structure, stress="cell" in structure)
        assert atoms.get_potential_energy() == pytest.approx(out["energy"].item(), rel=1e-12)
        assert np.allclose(atoms.get_forces(), out["forces"].detach().numpy(), rtol=0, atol=1e-12)
        assert np.allclose(atoms.get_dipole_moment(), out["dipole"][0].detach().numpy(), rtol=0, atol=1e-12)
        assert atoms.get_charges().shape == (len(atoms),)
        if "cell" in structure:
            assert np.allclose(atoms.get_stress(voigt=False), out["stress"][0].detach().numpy(), rtol=0, atol=1e-12)
            assert atoms.get_stress().shape == (6,)


def test_forces_of_a_slab_with_mixed_periodicity():
    atoms = as_atoms(crystal())
    atoms.pbc = (True, True, False)
    atoms.calc = EquiformerCalculator(potential())
    forces, numeric = atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5)
    assert np.abs(forces - numeric).max() < 1e-6 * np.abs(numeric).max()


def test_kept_neighbours_give_the_same_numbers():
    model = potential()
    atoms, generator = as_atoms(crystal()), np.random.default_rng(0)
    kept, fresh = EquiformerCalculator(model, skin=1.0), EquiformerCalculator(model, skin=0.0)
    for step in range(12):
        atoms.positions += generator.normal(scale=0.05, size=(3, 3))
        for calculator in (kept, fresh):
            calculator.calculate(atoms, ["energy", "forces"])
        assert kept.results["energy"] == pytest.approx(fresh.results["energy"], rel=1e-12)
        assert np.allclose(kept.results["forces"], fresh.results["forces"], rtol=0, atol=1e-11), step
    assert fresh.neighbours.searches == 12
    assert kept.neighbours.searches < 8
    for change in ("cell", "pbc", "numbers"):
        before = kept.neighbours.searches
        if change == "cell":
            atoms.set_cell(atoms.cell.array * 1.01)
        elif change == "pbc":
            atoms.pbc = (True, True, False)
        else:
            atoms.numbers = [1, 1, 8]
        kept.calculate(atoms, ["energy"])
        assert kept.neighbours.searches == before + 1, change
        fresh.calculate(atoms, ["energy"])
        assert kept.results["energy"] == pytest.approx(fresh.results["energy"], rel=1e-12)


def test_nearest_neighbours_are_never_kept():
    calculator = EquiformerCalculator(potential(max_neighbors=3), skin=1.0)
    atoms = as_atoms(molecule(6))
    for _ in range(3):
        atoms.positions += 1e-3
        calculator.calculate(atoms, ["energy"])
    assert calculator.neighbours.searches == 3


def test_from_a_file_and_in_another_precision(tmp_path):
    model = potential()
    model.save(tmp_path / "potential.pt")
    atoms = as_atoms(molecule(5))
    expected = EquiformerCalculator(model).get_potential_energy(atoms)
    assert EquiformerCalculator(tmp_path / "potential.pt").get_potential_energy(atoms) == expected
    single = EquiformerCalculator(tmp_path / "potential.pt", dtype=torch.float32).get_potential_energy(atoms)
    assert single == pytest.approx(expected, rel=1e-4)
    assert single != expected


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "gradient"])
def test_published_models(direct):
    torch.manual_seed(0)
    model = EquiformerV3(
        num_layers=1,
        num_channels=8,
        attn_hidden_channels=4,
        num_heads=2,
        attn_alpha_channels=4,
        attn_value_channels=4,
        ffn_hidden_channels=8,
        edge_channels=8,
        num_radial_basis=8,
        lmax=2,
        attn_grid_resolution_list=[8, 8],
        ffn_grid_resolution_list=[8, 8],
        max_radius=3.0,
        direct_prediction=direct,
        regress_stress=True,
    )
    model.double().eval()
    for structure in (molecule(5), crystal()):
        atoms = as_atoms(structure)
        atoms.calc = EquiformerCalculator(model)
        expected = model.predict(atoms)
        assert atoms.get_potential_energy() == pytest.approx(expected["energy"].item(), rel=1e-12)
        assert np.allclose(atoms.get_forces(), expected["forces"].detach().numpy(), rtol=0, atol=1e-12)
        assert ("stress" in atoms.calc.results) == ("cell" in structure)
        if "cell" in structure:
            stress = expected["stress"].detach().numpy().reshape(3, 3)
            assert np.allclose(atoms.get_stress(voigt=False), (stress + stress.T) / 2, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_relaxation_and_dynamics():
    """An untrained potential has minima too: a relaxation finds one, and dynamics from there conserve energy."""
    atoms = as_atoms(molecule(5))
    atoms.calc = EquiformerCalculator(potential())
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    assert np.abs(atoms.get_forces()).max() < 0.01
    generator = np.random.default_rng(1)
    atoms.set_momenta(generator.normal(scale=0.3, size=(5, 3)) * np.sqrt(atoms.get_masses())[:, None])
    start = atoms.get_total_energy()
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    for _ in range(20):
        dynamics.run(10)
        assert abs(atoms.get_total_energy() - start) < 1e-3 * atoms.get_kinetic_energy() + 1e-5


OPEN = {
    "graphene": lambda: graphene(a=2.8),
    "slab without vacuum": lambda: fcc111("Al", (1, 1, 3), a=4.05),
    "slab with vacuum": lambda: fcc111("Al", (1, 1, 3), a=4.05, vacuum=5.0),
    "tube": lambda: nanotube(3, 0, bond=1.42),
    "one vector": lambda: Atoms(
        "HO", [[0, 0, 0], [0, 0, 1.2]], cell=[[2.5, 0, 0], [0, 0, 0], [0, 0, 0]], pbc=[1, 0, 0]
    ),
    "box that does not repeat": lambda: Atoms("HO", [[0, 0, 0], [0, 0, 1.2]], cell=[8, 8, 8]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", OPEN)
def test_fewer_than_three_cell_vectors(structure, kind):
    """Whatever is asked for, in whichever order: energy, forces; a stress where there is a volume."""
    atoms = OPEN[structure]()
    atoms.numbers = np.resize([6, 8, 1], len(atoms))
    atoms.rattle(0.05, seed=1)
    atoms.calc = EquiformerCalculator(build(kind))
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert np.isfinite(energy)
    assert np.isfinite(forces).all()
    if kind in CONSERVATIVE:
        numeric = calculate_numerical_forces(atoms, eps=1e-5, iatoms=[0])[0]
        assert np.abs(forces[0] - numeric).max() < 1e-6 * max(1, np.abs(numeric).max())
    if atoms.cell.rank < 3 or kind == "v2":
        with pytest.raises(PropertyNotImplementedError, match="stress"):
            atoms.get_stress()
    else:
        assert np.isfinite(atoms.get_stress()).all()
    atoms.calc.calculate(atoms, ["energy", "forces", "stress", "magmoms"])
    assert atoms.calc.results["energy"] == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize("kind", CONSERVATIVE)
def test_stress_of_a_slab(kind):
    atoms = as_atoms(crystal())
    atoms.pbc = (True, True, False)
    atoms.calc = EquiformerCalculator(build(kind))
    numeric = calculate_numerical_stress(atoms, eps=1e-5, force_consistent=False)
    assert np.abs(atoms.get_stress() - numeric).max() < 1e-6 * np.abs(numeric).max()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_atoms(kind):
    atoms = as_atoms(crystal())
    atoms.calc = EquiformerCalculator(build(kind))
    assert atoms.get_potential_energies().shape == (3,)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    if kind in CONSERVATIVE:
        assert np.allclose(atoms.get_stresses().sum(0), atoms.get_stress(), rtol=0, atol=1e-12)
        with pytest.raises(PropertyNotImplementedError):
            Atoms("H2", [[0, 0, 0], [0, 0, 1]], calculator=atoms.calc).get_stresses()
    else:
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stresses()


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_the_caller_stays_as_it_is(kind):
    """Its dtype, its training flag, its weights; and calculators do not change each other."""
    model = build(kind).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    atoms = as_atoms(molecule(5))
    double, single = EquiformerCalculator(model), EquiformerCalculator(model, dtype=torch.float32)
    energies = [double.get_potential_energy(atoms), single.get_potential_energy(atoms)]
    assert energies[0] != energies[1]
    assert model.training
    assert all(part.training for part in model.modules())
    assert {value.dtype for value in model.parameters()} == {torch.float64}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1.0
    model.float()
    for calculator, energy in zip((double, single), energies, strict=True):
        calculator.reset()
        assert calculator.get_potential_energy(atoms) == energy


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_not_rounded(kind):
    """Double precision is double throughout: the calculator says what the model says of float64 tensors."""
    model, structure = build(kind), crystal()
    atoms = as_atoms(structure)
    out = model.evaluate({**structure, "batch": torch.zeros(3, dtype=torch.long)})
    single = build(kind).float()
    for calculator in (EquiformerCalculator(model), EquiformerCalculator(single, dtype=torch.float64)):
        atoms.calc = calculator
        exact = calculator.potential.evaluate({**structure, "batch": torch.zeros(3, dtype=torch.long)})
        assert atoms.get_potential_energy() == pytest.approx(exact["energy"].item(), rel=1e-13)
        assert np.abs(atoms.get_forces() - exact["forces"].detach().numpy()).max() < 1e-12
    if kind != "own":
        published: Any = model
        predicted = published.predict(atoms)
        assert predicted["energy"].item() == pytest.approx(out["energy"].item(), rel=1e-13)
        assert (predicted["forces"] - out["forces"]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_far_from_the_origin_in_single_precision(kind):
    """Trajectories that were never wrapped."""
    atoms = as_atoms(crystal())
    calculator = EquiformerCalculator(build(kind), dtype=torch.float32)
    wanted = np.array(calculator.get_forces(atoms))
    atoms.positions += 1e4 + np.array([[30, -40, 7], [0, 55, 5], [-9, 0, 2]]) @ atoms.cell.array
    assert np.abs(calculator.get_forces(atoms) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_committee(tmp_path):
    """The mean of several potentials, of models and files, and how far they are from each other."""
    members = [build("own"), build("own"), build("gradient")]
    with torch.no_grad():
        for weight in members[1].parameters():
            weight += 0.02
    members[2].save(tmp_path / "third.pt")
    atoms = as_atoms(crystal())
    single = [EquiformerCalculator(member) for member in members]
    calculator: Any = EquiformerCalculator([members[0], members[1], tmp_path / "third.pt"])
    assert "charges" not in calculator.implemented_properties  # the third has none
    for _ in range(3):
        atoms.rattle(0.01, rng=np.random.default_rng(1))
        for name in ("energy", "forces", "stress", "energies", "stresses"):
            found = np.stack([np.asarray(each.get_property(name, atoms)) for each in single])
            assert np.allclose(calculator.get_property(name, atoms), found.mean(0), rtol=0, atol=1e-11), name
            deviation = calculator.get_property(f"{name}_std", atoms)
            assert np.allclose(deviation, found.std(0, ddof=1), rtol=0, atol=1e-11), name
    assert calculator.results["energy_std"] > 0
    assert np.allclose(
        calculator.get_hessian(atoms), np.mean([each.get_hessian(atoms) for each in single], 0), atol=1e-10
    )
    # Within its skin for two, anew for the third, whose neighbours are counted.
    assert calculator.neighbours.searches == 1 + 3
    pair: Any = EquiformerCalculator(members[:2])
    assert pair.get_charges(atoms).shape == pair.results["charges_std"].shape == (3,)


def test_committees_that_do_not_fit():
    with pytest.raises(ValueError, match="potential is empty"):
        EquiformerCalculator([])
    one, other = (potential(targets={"dipole": Target(1, per)}) for per in ("structure", "atom"))
    with pytest.raises(ValueError, match="different things by 'dipole'"):
        EquiformerCalculator([one, other])


def test_energy_alone_needs_no_forces():
    calculator = EquiformerCalculator(potential())
    atoms = as_atoms(crystal())
    calculator.calculate(atoms, ["energy"])
    assert set(calculator.results) == {"energy", "free_energy"}
    calculator.calculate(atoms, ["forces"])
    assert set(calculator.results) == {"energy", "free_energy", "forces", "stress"}


def test_bad_arguments():
    with pytest.raises(ValueError, match="skin"):
        EquiformerCalculator(potential(), skin=-1.0)
    atoms = as_atoms(molecule(4))
    atoms.numbers[0] = 92
    with pytest.raises(ValueError, match=r"\[92\]"):
        EquiformerCalculator(potential()).get_potential_energy(atoms)


def test_forces_come_with_the_energy_once_they_were_asked_for(monkeypatch) -> None:
    """Programs ask for the energy first, then for the forces: one evaluation for each step, not two."""
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], calculator=EquiformerCalculator(build("own")))
    calls, evaluate = [], type(atoms.calc.potential).evaluate

    def counted(self, structures, **wanted):
        calls.append(wanted["forces"])
        return evaluate(self, structures, **wanted)

    monkeypatch.setattr(type(atoms.calc.potential), "evaluate", counted)
    for _ in range(3):
        atoms.positions[0, 0] += 0.01
        atoms.get_potential_energy()
        atoms.get_forces()
    assert calls == [False, True, True, True]
    exact = Atoms(atoms, calculator=EquiformerCalculator(build("own")))
    assert np.abs(atoms.get_forces() - exact.get_forces()).max() < 1e-12
