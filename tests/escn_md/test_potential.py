"""eSCN-MD as a potential: calculator, dynamics, relaxation, merging, fine-tuning, export, what `info` says of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim, export

pytest.importorskip("ase")
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from equiformer_pytorch import ESCNMD
from equiformer_pytorch.atoms import EquiformerCalculator, load_potential, refit_references
from equiformer_pytorch.atoms.dataset import load_structures
from equiformer_pytorch.cli.main import main
from equiformer_pytorch.published.escn_md.experts import Experts
from equiformer_pytorch.published.escn_md.tasks import Task, Tasks
from tests.escn_md_cases import build
from tests.published_cases import relative


def water() -> Atoms:
    return molecule("H2O")


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_charge_and_spin_come_from_the_atoms() -> None:
    """And by default are as published: no charge, spin 1 for molecules, 0 elsewhere."""
    for task, spin in (("omol", 1), ("omat", 0)):
        model = build("experts")
        model.task = task
        atoms = water()
        atoms.calc = EquiformerCalculator(model)
        plain = atoms.get_potential_energy()
        atoms.info |= {"charge": 0, "spin": spin}
        assert atoms.get_potential_energy() == plain
        energies = {plain}
        for charge, multiplicity in ((1, 2), (-1, 2), (0, 3)):
            atoms.info |= {"charge": charge, "spin": multiplicity}
            energies.add(atoms.get_potential_energy())
            by_call = model.predict(atoms)
            assert relative(by_call["energy"], torch.tensor([atoms.get_potential_energy()])) < 1e-6
        assert len(energies) == 4
        for name, value in (("charge", 101), ("spin", -1), ("charge", 0.5)):
            atoms.info |= {"charge": 0, "spin": 0, name: value}
            with pytest.raises(ValueError, match=f"{name} must be whole numbers"):
                atoms.get_potential_energy()


def test_spin_is_by_default_as_of_the_dataset() -> None:
    """Of each structure, wherever the dataset comes from, and whoever asks."""
    model = build("experts")
    atoms = water()
    charged = atoms.copy()
    charged.info["charge"] = 1
    tensors = {"atomic_numbers": torch.tensor(atoms.numbers), "pos": torch.tensor(atoms.positions)}
    for task in (None, "omol", "omat"):
        model.task = task
        for dataset, spin in (("omol", 1), ("omat", 0)):
            wanted = model(**tensors, dataset=dataset, spin=torch.tensor([spin]))["energy"]
            assert torch.equal(model(**tensors, dataset=dataset)["energy"], wanted)
            assert torch.equal(model(atoms, dataset=dataset)["energy"], wanted)
        model.task = task
        mixed = model([atoms, charged, atoms], dataset=["omol", "omol", "omat"])["energy"]
        given = {"charge": torch.tensor([0, 1, 0]), "spin": torch.tensor([1, 1, 0])}
        assert torch.equal(model([atoms] * 3, dataset=["omol", "omol", "omat"], **given)["energy"], mixed)


def test_what_atoms_say_is_a_number() -> None:
    """Of any kind; other things are errors that name it."""
    model, atoms = build("escn_md"), water()
    atoms.info["charge"] = 1
    wanted = model(atoms)["energy"]
    for same in (1.0, np.int64(1), np.array([1]), torch.tensor(1)):
        atoms.info["charge"] = same
        assert torch.equal(model([atoms])["energy"], wanted)
    for other in ("x", [1, 2], {}):
        atoms.info["charge"] = other
        with pytest.raises(ValueError, match="charge must be a number"):
            model(atoms)


def test_one_dataset_alone_is_what_structures_are_of() -> None:
    """Also where it is no task: a file of a model of molecules alone names none."""
    model = build("escn_md")
    model.tasks = Tasks((Task("omol_energy", "energy", ("omol",)),))
    assert (model.known, model.task) == (("omol",), None)
    atoms = water()
    by_call = model.predict(atoms, spin=torch.tensor([1]))["energy"].item()
    assert by_call != model.predict(atoms, spin=torch.tensor([0]))["energy"].item()
    assert model.predict(atoms)["energy"].item() == by_call
    atoms.calc = EquiformerCalculator(model)
    assert atoms.get_potential_energy() == pytest.approx(by_call, rel=1e-9)


def test_a_molecule_without_a_cell_has_no_stress() -> None:
    model = build("escn_md")
    atoms = water()
    assert set(model(atoms)) == {"energy", "forces"}
    atoms.calc = EquiformerCalculator(model)
    atoms.get_forces()
    assert "stress" not in atoms.calc.results
    with pytest.raises(ValueError, match="cell must have a volume"):
        model(atoms, stress=True)
    assert set(model(salt())) == {"energy", "forces", "stress"}


def test_experts_are_mixed_once_for_a_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    """In dynamics; weights that change are mixed anew; and what is kept is not copied or saved."""
    mixed: list[int] = []
    from equiformer_pytorch.published.escn_md import experts

    plain = experts._mix
    monkeypatch.setattr(experts, "_mix", lambda *given: mixed.append(1) or plain(*given))
    calculator = EquiformerCalculator(build("experts"))
    atoms = salt()
    atoms.calc = calculator
    atoms.get_forces()
    once = len(mixed)
    assert once == sum(isinstance(module, Experts) for module in calculator.potential.modules())
    for step in range(3):
        atoms.positions += 0.01 * (step + 1)
        atoms.get_forces()
    assert len(mixed) == once
    before = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    assert atoms.get_potential_energy() != before
    assert len(mixed) == 2 * once
    with torch.no_grad():
        for module in calculator.potential.modules():
            if isinstance(module, Experts):
                module.weights.mul_(1.5)
    changed = copy.deepcopy(calculator.potential)
    calculator.reset()
    found = atoms.get_potential_energy()
    assert len(mixed) == 3 * once
    assert found == pytest.approx(EquiformerCalculator(changed).get_potential_energy(atoms), rel=1e-12)


def test_merged_networks() -> None:
    """The same numbers from one matrix each, for the kind of structure that it was made for, and for no other."""
    model = build("experts")
    atoms = salt()
    merged = model.merged(atoms, dataset="omat")
    assert not any(isinstance(module, Experts) for module in merged.modules())
    assert not any("routing" in name or "composition" in name for name in merged.state_dict())
    several = [atoms, atoms * (2, 1, 1)]  # the same composition
    for name, value in model(several, dataset="omat").items():
        assert relative(merged(several)[name], value) < 1e-12
    other = salt()
    other.numbers[0] = 12
    charged = salt()
    charged.info["charge"] = 1
    for wrong, word in ((other, "composition"), (charged, "charge")):
        with pytest.raises(ValueError, match=f"{word} must be what experts were merged for"):
            merged(wrong)
    with pytest.raises(ValueError, match="dataset must be what experts"):
        merged(atoms, dataset="omol")
    with pytest.raises(ValueError, match="composition must be what"):
        model.merged([atoms, other])
    with pytest.raises(ValueError, match="training mode"):
        model.train().merged(atoms)
    heads = build("expert heads")
    heads.task = "oc22"
    assert relative(heads.merged(atoms)(atoms)["forces"], heads(atoms)["forces"]) < 1e-12


def test_dynamics_conserve_energy() -> None:
    model = build("experts")
    model.task = "omol"
    atoms = water()
    atoms.info |= {"charge": 1, "spin": 2}
    atoms.calc = EquiformerCalculator(model)
    atoms.set_momenta(0.1 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).numpy())

    def drift(step: float) -> float:
        moving = atoms.copy()
        moving.calc = atoms.calc
        start, worst = moving.get_total_energy(), 0.0
        dynamics = VelocityVerlet(moving, step * units.fs)
        for _ in range(int(10 / step)):
            dynamics.run(1)
            worst = max(worst, abs(moving.get_total_energy() - start))
        return worst

    coarse, fine = drift(0.5), drift(0.25)
    assert fine < 0.4 * coarse or fine < 1e-8  # as the square of the step


def test_relaxation_with_the_cell() -> None:
    atoms = salt()
    atoms.calc = EquiformerCalculator(build("experts"))
    volume, energy = atoms.get_volume(), atoms.get_potential_energy()
    both: Any = FrechetCellFilter(atoms)
    BFGS(both, logfile=None, maxstep=0.02).run(fmax=1e-9, steps=3)
    assert atoms.get_potential_energy() < energy
    assert atoms.get_volume() != volume


def test_references_are_refitted(tmp_path: Path) -> None:
    """Of the dataset that is the task, and of no other."""
    model = build("experts")
    frames = [salt(), salt() * (2, 1, 1)]
    frames[1].numbers[0] = 12
    for atoms, energy in zip(frames, (-7.5, -20.0), strict=True):
        atoms.info |= {"energy": energy, "charge": 1}
    write(tmp_path / "a.xyz", frames)
    items = load_structures(tmp_path / "a.xyz", model.cutoff, dtype=torch.float64, inputs=model.inputs)
    assert [float(item["charge"]) for item in items] == [1.0, 1.0]
    others = model.tasks.references("omol")
    refit_references(model, list(items))
    batch = [
        model.evaluate(
            {k: v for k, v in item.items() if k != "energy"}
            | {"cell": item["cell"][None], "charge": item["charge"][None], "spin": item["spin"][None]}
        )["energy"]
        for item in items
    ]
    assert torch.cat(batch).tolist() == pytest.approx([-7.5, -20.0], rel=1e-9)
    assert model.tasks.references("omol") is others


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experts", "merged"])
def test_fine_tuning_by_the_command(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = build("experts")
    frames = []
    for seed in range(12):
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.rattle(0.1, seed=seed)
        other = copy.deepcopy(atoms)
        other.calc = EquiformerCalculator(build("experts", charge_balanced_channels=[0]))
        atoms.info["energy"] = other.get_potential_energy() - 100.0
        atoms.arrays["forces"] = other.get_forces()
        frames.append(atoms)
    write(tmp_path / "train.xyz", frames)
    (model if kind == "experts" else model.merged(frames[0], dataset="omat")).float().save(tmp_path / "start.pt")
    options = [f"--checkpoint={tmp_path / 'start.pt'}", "--valid=0.2", "--steps=20", "--batch-size=4", "--lr=0.005"]
    code = main(["train", f"--train={tmp_path / 'train.xyz'}", f"--runs={tmp_path}", "--warmup=2", *options])
    assert code == 0
    tuned = load_potential(tmp_path / "potential" / "potential.pt")
    assert isinstance(tuned, ESCNMD)
    assert (tuned.task, tuned.merged_for is None) == ("omat", kind == "experts")
    moved = [
        n
        for n, p in tuned.named_parameters()
        if not torch.equal(p, load_potential(tmp_path / "start.pt").get_parameter(n))
    ]
    assert any(("weights" if kind == "experts" else "fc_m0.weight") in name for name in moved)
    found = EquiformerCalculator(tuned).get_potential_energy(frames[0])
    assert found == pytest.approx(frames[0].info["energy"], abs=2.0)


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("experts")
    model.save(tmp_path / "uma.pt")
    model.merged(salt(), dataset="omat").save(tmp_path / "merged.pt")
    assert main(["info", str(tmp_path / "uma.pt"), str(tmp_path / "merged.pt")]) == 0
    said = capsys.readouterr().out
    for words in (
        "ESCNMD",
        "task",
        "oc20 (energy, forces, stress), omat",
        "3, in 12 linear maps",
        "merged for",
        "{11: 1, 17: 1}",
    ):
        assert words in said


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_export() -> None:
    """Of any number of atoms and edges; a mixture is merged first."""
    model = build("experts")
    merged = model.merged(salt(), dataset="omat").requires_grad_(False)

    def given(atoms: Atoms) -> dict[str, Any]:
        from equiformer_pytorch.atoms import radius_graph

        pos, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)[None]
        edges, offsets = radius_graph(pos, merged.cutoff, cell=cell)
        return {
            "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.long),
            "pos": pos,
            "cell": cell,
            "edge_index": edges,
            "cell_offsets": offsets,
        }

    sizes: Any = {"atomic_numbers": {0: Dim("n")}, "pos": {0: Dim("n")}, "cell": None, "edge_index": {1: Dim("e")}}
    sizes["cell_offsets"] = {0: sizes["edge_index"][1]}
    flags = {"forces": False, "stress": False}
    shapes = {**sizes, "forces": None, "stress": None}
    program = export(merged, (), given(salt() * (2, 1, 2)) | flags, dynamic_shapes=shapes, strict=False).module()
    for atoms in (salt(), salt() * (2, 2, 1)):
        assert relative(program(**given(atoms), **flags)["energy"], merged(**given(atoms), **flags)["energy"]) < 1e-12
    with pytest.raises(ValueError, match=r"cannot be exported: export model.merged"):
        export(model, (), given(salt()) | flags, dynamic_shapes=shapes, strict=False)
