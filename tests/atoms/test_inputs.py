"""What structures and atoms come with beside their geometry: charge, spin, whatever a potential is built with."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ase")
from ase import Atoms

from equiformer_pytorch.atoms import EquiformerCalculator, EquiformerPotential, Input, load_potential, predict
from equiformer_pytorch.atoms.calculator import EquiformerCalculator as Calculator
from equiformer_pytorch.atoms.embedding import read_inputs
from tests.atoms.kinds import build, relative
from tests.atoms.potentials import crystal, molecule, potential, together

INPUTS = {"charge": Input(least=-2, most=2), "spin": Input(least=0, most=4, default=1), "field": Input("atom")}


def model(**inputs: Any) -> EquiformerPotential:
    return potential(inputs=inputs or INPUTS)


def test_energies_depend_on_them() -> None:
    """Each structure on its own, in any order of atoms; without them the defaults hold."""
    potential, one, two = model(), molecule(4), molecule(5, seed=1)
    batch = together([one, two])
    field = torch.linspace(-1, 1, 9, dtype=torch.float64)
    inputs = {"charge": torch.tensor([1, -2]), "spin": torch.tensor([2, 1]), "field": field}
    out = potential(**batch, inputs=inputs)
    parts = [
        potential(**structure, inputs={"charge": torch.tensor([q]), "spin": torch.tensor([s]), "field": f})
        for structure, q, s, f in zip((one, two), (1, -2), (2, 1), field.split((4, 5)), strict=True)
    ]
    assert relative(out["energy"], torch.cat([part["energy"] for part in parts])) < 1e-12
    assert relative(out["forces"], torch.cat([part["forces"] for part in parts])) < 1e-10
    order = torch.randperm(9)
    moved = {name: x[order] for name, x in batch.items()}
    again = potential(**moved, inputs={**inputs, "field": field[order]})
    assert relative(again["energy"], out["energy"]) < 1e-12
    plain = potential(**batch)
    assert (plain["energy"] - out["energy"]).abs().min() > 1e-6
    said = {"charge": torch.zeros(2), "spin": torch.ones(2), "field": torch.zeros(9)}
    assert torch.equal(potential(**batch, inputs=said)["energy"], plain["energy"])
    assert torch.equal(potential(**batch, inputs={"charge": torch.zeros(2)})["energy"], plain["energy"])


def test_an_untrained_value_changes_nothing() -> None:
    potential = model()
    with torch.no_grad():
        for weight in potential.from_inputs.parameters():
            weight.zero_()
    with_charge = potential(**molecule(4), inputs={"charge": torch.tensor([2])})["energy"]
    assert torch.equal(with_charge, potential(**molecule(4))["energy"])
    fresh = EquiformerPotential(species=[1], dim=4, depth=1, inputs=INPUTS)
    assert all((weight == 0).all() for weight in fresh.from_inputs.parameters())
    fresh(torch.tensor([1, 1]), torch.eye(2, 3), inputs={"charge": torch.tensor([1])})["energy"].sum().backward()
    assert all(weight.grad is not None for weight in fresh.from_inputs.parameters())


def test_files_and_batches(tmp_path) -> None:
    potential = model()
    potential.save(tmp_path / "model.pt")
    again = load_potential(tmp_path / "model.pt")
    assert again.inputs == INPUTS
    batch = {**crystal(), "batch": torch.zeros(3, dtype=torch.long), "charge": torch.tensor([2.0]), "note": "aside"}
    wanted = potential(**crystal(), inputs={"charge": torch.tensor([2])})
    assert torch.equal(predict(again, batch)["energy"], wanted["energy"])
    assert torch.equal(predict(again, batch)["forces"], wanted["forces"])
    without = build("own")
    assert "inputs" not in without.config
    assert not any(name.startswith("from_inputs") for name in without.state_dict())


def atoms_with(**info: Any) -> Atoms:
    structure = crystal()
    atoms = Atoms(structure["atomic_numbers"], structure["pos"].numpy(), cell=structure["cell"][0].numpy(), pbc=True)
    atoms.info.update(info)
    return atoms


def test_calculator() -> None:
    """From info and arrays; a change of them is a change."""
    potential = model()
    atoms = atoms_with(charge=1)
    atoms.arrays["field"] = np.array([0.5, 0.0, -1.0])
    atoms.calc = EquiformerCalculator(potential)
    inputs = {"charge": torch.tensor([1]), "field": torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64)}
    wanted = potential(**crystal(), inputs=inputs)
    assert atoms.get_potential_energy() == pytest.approx(wanted["energy"].item(), rel=1e-12)
    assert np.allclose(atoms.get_forces(), wanted["forces"].detach().numpy(), rtol=0, atol=1e-12)
    seen = {atoms.get_potential_energy()}
    for change in ({"charge": 2}, {"spin": 3}, {"charge": np.int64(-1)}):
        atoms.info.update(change)
        seen.add(atoms.get_potential_energy())
    atoms.arrays["field"] = np.zeros(3)
    seen.add(atoms.get_potential_energy())
    del atoms.info["charge"]
    seen.add(atoms.get_potential_energy())
    assert len(seen) == 6
    calls = atoms.calc.neighbours.searches
    atoms.info["unrelated"] = "note"
    atoms.get_potential_energy()
    assert atoms.calc.neighbours.searches == calls == 1
    assert atoms.calc.get_hessian(atoms).shape == (3, 3, 3, 3)
    for value, words in (
        ("plus", "charge must be a number"),
        ([1, 2, 3], "charge must be one number for each structure"),
    ):
        atoms.info["charge"] = value
        with pytest.raises(ValueError, match=words):
            atoms.get_potential_energy()
    atoms.info["charge"] = 7
    with pytest.raises(ValueError, match=r"inputs\['charge'\] must be whole numbers in -2 … 2"):
        atoms.get_potential_energy()


def test_calculator_sees_what_is_changed_in_place() -> None:
    atoms = atoms_with(charge=np.array([1]), field=np.zeros(3))
    atoms.calc = EquiformerCalculator(model())
    for name, value in (("charge", 2), ("field", 0.5)):
        before = atoms.get_potential_energy()
        atoms.info[name][0] = value
        found = atoms.get_potential_energy()
        assert found != before
        other = atoms.copy()
        other.calc = EquiformerCalculator(model())
        assert found == pytest.approx(other.get_potential_energy(), rel=1e-12)


def test_calculator_goes_on_after_a_call_that_failed() -> None:
    atoms = atoms_with(charge="one", field=np.zeros(3))
    atoms.calc = EquiformerCalculator(model())
    with pytest.raises((TypeError, ValueError), match="charge"):
        atoms.get_potential_energy()
    atoms.info["charge"] = 1
    found = atoms.get_potential_energy()
    other = atoms.copy()
    other.calc = EquiformerCalculator(model())
    assert found == pytest.approx(other.get_potential_energy(), rel=1e-12)


def test_read_for_batches() -> None:
    """One number of a structure, one of each atom, defaults where nothing is said: as collate_structures takes them."""
    found = read_inputs(atoms_with(charge=-1, field=0.5), INPUTS)
    assert {name: x.tolist() for name, x in found.items()} == {"charge": -1, "spin": 1, "field": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize("kind", ["own", "gradient"])
def test_what_is_ignored_is_said_once(kind: str) -> None:
    calculator = Calculator(build(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for info in ({}, {"charge": 0}, {"spin": 1}, {"charge": 0.0, "spin": 0}):
            calculator.get_potential_energy(atoms_with(**info))
    with pytest.warns(UserWarning, match="atoms.info has charge = 1, which the potential does not take"):
        calculator.get_potential_energy(atoms_with(charge=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_potential_energy(atoms_with(charge=-1, spin=3))
        Calculator(model()).get_potential_energy(atoms_with(charge=1, spin=2))
    with pytest.warns(UserWarning, match="spin = 3"):
        Calculator(build(kind)).get_potential_energy(atoms_with(spin=3))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"charge": torch.tensor([3])}, r"inputs\['charge'\] must be whole numbers in -2 … 2"),
        ({"charge": torch.tensor([0.5])}, r"inputs\['charge'\] must be whole numbers"),
        ({"charge": torch.tensor([1, 1])}, r"inputs\['charge'\] must have shape \(structures,\) = \(1,\)"),
        ({"field": torch.ones(1)}, r"inputs\['field'\] must have shape \(atoms,\) = \(4,\)"),
        ({"field": torch.full((4,), torch.nan)}, r"inputs\['field'\] must be finite"),
        ({"field": [0.0] * 4}, r"inputs\['field'\] must be a torch.Tensor"),
        ({"chagre": torch.ones(1)}, r"inputs has \['chagre'\], the potential takes \['charge', 'field', 'spin'\]"),
    ],
)
def test_wrong_inputs(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        model()(**molecule(4), inputs=inputs)


def test_a_potential_that_takes_none() -> None:
    with pytest.raises(ValueError, match=r"inputs has \['charge'\], the potential takes \[\]"):
        potential()(**molecule(4), inputs={"charge": torch.ones(1)})


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"per": "bond"}, "per 'structure' or 'atom'"),
        ({"least": 0}, "both least and most"),
        ({"least": 3, "most": 1}, "least ≤ most"),
        ({"least": 1, "most": 3}, "default in 1 … 3, got 0"),
        ({"least": 0.5, "most": 3}, "bounded by whole numbers"),
    ],
)
def test_wrong_settings(given: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        model(charge=given)
    with pytest.raises(ValueError, match="inputs: pos means something else"):
        model(pos=Input())
