"""Files of fairchem 1's `hydra` at work: calculator, relaxation with the cell, data sets, fine-tuning, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ase")
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS

from equiformer_pytorch import EquiformerV2
from equiformer_pytorch.atoms import (
    EquiformerCalculator,
    collate_structures,
    export_potential,
    load_potential,
    load_structures,
)
from equiformer_pytorch.atoms.exported import FIELDS
from equiformer_pytorch.cli.main import main
from tests.hydra_cases import checkpoint, own_edges, shipped, structures
from tests.published_cases import relative
from tests.tolerances import SAME_VALUE

KNOWN = shipped()["decomposed"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(checkpoint("decomposed", KNOWN), tmp_path / "eqV2.pt")
    return tmp_path / "eqV2.pt"


def salt(seed: int | None = None) -> Atoms:
    """Perfect, with shells of 6 and 12 neighbours of which 10 would be too few, or shaken."""
    atoms = bulk("NaCl", "rocksalt", a=4.6)
    if seed is not None:
        atoms.rattle(0.1, seed=seed)
    return atoms


def test_calculator_and_relaxation_with_the_cell(path: Path):
    model, atoms = EquiformerV2.from_checkpoint(path), salt(1)
    atoms.calc = EquiformerCalculator(path)
    wanted = {name: value.detach() for name, value in model.predict(atoms).items()}
    assert atoms.get_potential_energy() == pytest.approx(float(wanted["energy"]), rel=SAME_VALUE)
    np.testing.assert_allclose(atoms.get_forces(), wanted["forces"], rtol=SAME_VALUE, atol=SAME_VALUE)
    stress = wanted["stress"].view(3, 3).numpy()
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=SAME_VALUE)
    volume, pull = atoms.get_volume(), float(np.trace(stress))
    both: Any = FrechetCellFilter(atoms)
    BFGS(both, logfile=None, maxstep=0.02).run(fmax=1e-9, steps=2)
    assert (atoms.get_volume() - volume) * pull < 0  # what is under tension contracts


def test_neighbours_are_chosen_alike_everywhere(path: Path, tmp_path: Path):
    """In the model's own search, the calculator and data sets: whole shells."""
    model, atoms = EquiformerV2.from_checkpoint(path), salt()
    write(tmp_path / "salt.xyz", atoms)
    items = load_structures(
        tmp_path / "salt.xyz",
        model.cutoff,
        max_neighbors=model.max_neighbors,
        strict_neighbors=model.strict_neighbors,
        dtype=torch.float64,
    )
    assert torch.bincount(items[0]["edge_index"][1]).tolist() == [18, 18]
    energy = float(model.evaluate(collate_structures(list(items)))["energy"].detach())
    assert energy == pytest.approx(EquiformerCalculator(path).get_potential_energy(atoms), rel=SAME_VALUE)
    assert energy == pytest.approx(float(model.predict(atoms)["energy"].detach()), rel=SAME_VALUE)
    model.strict_neighbors = True
    assert energy != pytest.approx(float(model.predict(atoms)["energy"].detach()), rel=1e-6)


def test_without_its_stress_head(path: Path, tmp_path: Path):
    """As for training on data without stress."""
    model, wanted = (EquiformerV2.from_checkpoint(path) for _ in range(2))
    model.leave_out_stress_head()
    assert model.gives == {"energy", "forces"}
    model.save(tmp_path / "without.pt")
    again = EquiformerV2.from_checkpoint(tmp_path / "without.pt")
    assert again.config["stress_head"] is None
    found = again.predict(salt(1))
    assert relative(found["forces"], wanted.predict(salt(1))["forces"]) < SAME_VALUE
    assert "stress" not in found


@pytest.mark.slow
def test_fine_tuning_and_evaluation_by_the_command(path: Path, tmp_path: Path):
    """On energies, forces and stresses: the stress comes nearer to what it is told, and the file can be judged."""
    pytest.importorskip("accelerate")
    frames = [salt(seed) for seed in range(8)]
    for atoms in frames:
        labels = {"energy": -7.0, "forces": np.zeros((2, 3)), "stress": np.full(6, 0.02)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    write(tmp_path / "train.xyz", frames)
    options = [f"--checkpoint={path}", "--valid=0.25", "--steps=15", "--batch-size=4", "--lr=0.005", "--warmup=2"]
    assert main(["train", f"--train={tmp_path / 'train.xyz'}", f"--runs={tmp_path}", *options]) == 0
    tuned = load_potential(tmp_path / "potential" / "potential.pt")
    assert isinstance(tuned, EquiformerV2)
    assert not tuned.strict_neighbors

    def off(model: EquiformerV2) -> float:
        with torch.no_grad():
            stress = model.predict(frames)["stress"].unflatten(1, (3, 3))
        return float((stress.diagonal(dim1=1, dim2=2) - 0.02).abs().mean())

    assert off(tuned) < 0.7 * off(EquiformerV2.from_checkpoint(path))
    assert main(["evaluate", str(path), str(tmp_path / "train.xyz"), f"--out={tmp_path / 'judged'}"]) == 0
    assert "stress / meV" in (tmp_path / "judged" / "evaluation.txt").read_text()


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["decomposed", "whole"])
def test_as_a_program(name: str):
    """Of torch.export, with the stress; and every weight has a gradient, so that none is unused in training."""
    model = EquiformerV2.from_checkpoint(checkpoint(name, shipped()[name]))
    atoms = structures()
    given = {**atoms, **own_edges(model, atoms)}
    case = {field: given[field] for field in FIELDS}
    with torch.no_grad():
        found = export_potential(model).module()(**case)
    wanted = model.evaluate(case, stress=True)
    assert found.keys() == wanted.keys() == {"energy", "forces", "stress"}
    for key, value in wanted.items():
        assert relative(found[key], value) < SAME_VALUE
    torch.stack([value.square().sum() for value in wanted.values()]).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
