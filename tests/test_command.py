"""The command `equiformer` as its user meets it: whatever labels files have, in whatever files they are."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra train")

from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equiformer_pytorch.atoms import EquiformerCalculator, EquiformerPotential, load_potential
from equiformer_pytorch.atoms.tensors import isotropic_part, traceless_part
from equiformer_pytorch.cli.main import main
from tests import published_cases
from tests.atoms.databases import connect
from tests.potential_program import ROOT, frames_of
from tests.programs import ENVIRONMENT, exit_code, metrics_of

MODEL = ["--dim=4", "--num-degrees=2", "--depth=1", "--heads=1"]
SMALL = ["--batch-size=4", "--warmup=3", "--ema=0.9", "--lr=0.01"]
LABELS = ("energy", "forces", "stress")


def call(*arguments: object) -> int:
    """The command in this process; its exit code."""
    return exit_code(main, arguments)


def train(folder: Path, *arguments: object, steps: int = 4) -> int:
    model = [] if "--checkpoint" in arguments else MODEL
    return call("train", "--runs", folder / "runs", *model, *SMALL, f"--steps={steps}", *arguments)


def labelled(atoms: Atoms, *labels: str) -> Atoms:
    """With EMT's labels, those of these names."""
    atoms.calc = EMT()
    found = {name: atoms.get_potential_energy() if name == "energy" else atoms.get_forces() for name in labels[:2]}
    if "stress" in labels:
        found["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **{name: value for name, value in found.items() if name in labels})
    return atoms


def molecules(count: int, *labels: str) -> list[Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        atoms = molecule(("CH4", "H2O", "NH3")[number % 3])
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        made.append(labelled(atoms, *(labels or ("energy", "forces"))))
    return made


def crystals(count: int, *labels: str) -> list[Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        atoms = bulk("Al", cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        made.append(labelled(atoms, *(labels or LABELS)))
    return made


def saved(path: Path, frames: list[Atoms]) -> Path:
    if path.suffix in (".db", ".aselmdb"):
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    else:
        write(path, frames, format="extxyz" if path.suffix == ".xyz" else None)
    return path


# ---- train


def test_shares_of_one_file_and_what_comes_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "all.xyz", molecules(30))
    assert train(tmp_path, "--train", file, "--valid", 0.2, "--test", 0.1, "--validate-every=10", steps=40) == 0
    folder, printed = tmp_path / "runs" / "potential", capsys.readouterr().out
    assert "21 train (21 energies, 21 forces), 6 valid, 3 test" in printed
    assert "reference energies: H, C, N, O by least squares" in printed
    rows = metrics_of(folder)
    assert float(rows[-1]["valid"]) < 0.95 * float(rows[9]["valid"])
    atoms = molecule("H2O")
    atoms.calc = EquiformerCalculator(folder / "potential.pt")
    assert np.isfinite(atoms.get_forces()).all()
    assert train(tmp_path, "--train", file, "--name", "potential") == 2
    assert "exists already" in capsys.readouterr().err
    assert call("train", "--runs", tmp_path / "runs", "--resume") == 0


@pytest.mark.parametrize("suffix", ["traj", "db"])
def test_files_of_other_kinds(tmp_path: Path, suffix: str) -> None:
    train_file = saved(tmp_path / f"one.{suffix}", molecules(8))
    valid = saved(tmp_path / f"two.{suffix}", molecules(3))
    assert train(tmp_path, "--train", train_file, valid, "--valid", valid) == 0


def test_labels_under_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = crystals(10)
    for atoms in frames:
        results = atoms.calc.results
        atoms.calc = None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = results["energy"], results["forces"]
        xx, yy, zz, yz, xz, xy = -results["stress"] * atoms.get_volume()
        atoms.info["REF_virial"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    file = saved(tmp_path / "all.xyz", frames)
    assert train(tmp_path, "--train", file) == 2
    captured = capsys.readouterr()
    assert "no structure to train on has energy" in captured.err
    assert captured.out.count("nothing reads") == 1
    for name in ("REF_energy", "REF_forces", "REF_virial"):
        assert f"{name} (in 10 of 10 records)" in captured.out
    keys = ["--keys", "energy=REF_energy", "forces=REF_forces", "virial=REF_virial"]
    assert train(tmp_path, "--train", file, *keys) == 0
    named = (tmp_path / "runs" / "potential" / "evaluation.txt").read_text()
    assert train(tmp_path, "--train", saved(tmp_path / "plain.xyz", crystals(10))) == 0
    assert (tmp_path / "runs" / "potential-2" / "evaluation.txt").read_text() == named


PARTIAL: dict[str, Callable[[], list[Atoms]]] = {
    "energies only": lambda: molecules(12, "energy"),
    "forces only": lambda: molecules(12, "forces"),
    "some of each": lambda: molecules(6, "energy") + molecules(6, "forces") + molecules(3),
    "stress of some": lambda: crystals(6) + crystals(6, "energy", "forces"),
    "molecules and crystals": lambda: crystals(6) + molecules(6),
    "nothing of some": lambda: [*molecules(6), molecule("H2O"), molecule("CH4")],
}


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.slow
def test_partial_labels(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What there is is learned and reported."""
    frames = PARTIAL[name]()
    counts = {label: sum(label in getattr(a.calc, "results", {}) for a in frames) for label in LABELS}
    file = saved(tmp_path / "all.xyz", frames)
    assert train(tmp_path, "--train", file, "--valid", file, steps=30) == 0
    printed = capsys.readouterr().out
    words = {"energy": "energies", "forces": "forces", "stress": "stresses"}
    listed = ", ".join(f"{counts[label]} {words[label]}" for label in LABELS if counts[label])
    assert f"{len(frames)} train ({listed})" in re.sub(r"\(([^)]*)\)", lambda m: f"({ordered(m[1], words)})", printed)
    for label, count in counts.items():
        assert (f"{count} with {label}" in printed) == (count > 0)
    losses = [float(row["train"]) for row in metrics_of(tmp_path / "runs" / "potential")]
    assert sum(losses[-6:]) < sum(losses[:6])


def ordered(text: str, words: dict[str, str]) -> str:
    """Counts in the order of the labels."""
    parts = text.split(", ")
    return ", ".join(part for word in words.values() for part in parts if part.endswith(word)) or text


AT_REST: dict[str, Callable[[], list[Atoms]]] = {
    "zero": lambda: [scaled(1 + 0.01 * k, 0.0) for k in range(-6, 7)],
    "rounding": lambda: [scaled(1 + 0.01 * k, 1e-14) for k in range(-6, 7)],
    "atoms": lambda: [labelled(Atoms(s), "energy", "forces") for s in ("Al", "Cu", "Au") * 3],
    "one": lambda: [scaled(1.0, 0.0)] * 3,
}


def scaled(factor: float, noise: float) -> Atoms:
    """A point of an equation of state."""
    atoms = bulk("Al", a=4.05 * factor)
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    forces = noise * np.random.default_rng(0).normal(size=(1, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@pytest.mark.parametrize("name", AT_REST)
@pytest.mark.slow
def test_forces_of_nothing(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Training goes on, and the report of every set is there."""
    frames = AT_REST[name]()
    rest, other = saved(tmp_path / "rest.xyz", frames), saved(tmp_path / "test_other.xyz", crystals(3))
    assert train(tmp_path, "--train", rest, "--valid", rest, "--test", rest, steps=12) == 0
    assert "–" in capsys.readouterr().out
    (tmp_path / "train.xyz").write_text(other.read_text())
    (tmp_path / "valid.xyz").write_text(other.read_text())
    if name in ("zero", "rounding"):
        (tmp_path / "test.xyz").write_text(rest.read_text())
        assert train(tmp_path, "--data", tmp_path) == 0
        assert "test_other: 3 structures, 3 with forces" in capsys.readouterr().out


@pytest.mark.slow
def test_an_equation_of_state_is_learned(tmp_path: Path) -> None:
    file = saved(tmp_path / "rest.xyz", AT_REST["rounding"]())
    options = ["--validate-every=20", "--batch-size=13", "--cutoff=6"]
    assert train(tmp_path, "--train", file, "--valid", file, *options, steps=200) == 0
    found = json.loads(evaluated(tmp_path, file))["all"]["all"]["energy"]
    energies = [atoms.get_potential_energy() for atoms in frames_of(file)]
    assert found["mae"] < 0.3 * np.abs(np.array(energies) - np.mean(energies)).mean()


def evaluated(folder: Path, file: Path, *more: object) -> str:
    assert call("evaluate", folder / "runs" / "potential" / "potential.pt", file, "--out", folder / "out", *more) == 0
    return (folder / "out" / "evaluation.json").read_text()


def test_isolated_atoms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their energies are the references; by least squares H would not be −13.6 eV."""
    free = {"H": -13.6, "C": -1029.0, "N": -1484.0, "O": -2042.0}
    frames = molecules(12)
    for atoms in frames:
        atoms.calc.results["energy"] += sum(free[symbol] for symbol in atoms.symbols) - 4.3 * len(atoms)
    alone = [Atoms(symbol, calculator=None, info={"config_type": "IsolatedAtom"}) for symbol in ("H", "O", "C")]
    for atoms in alone:
        atoms.calc = SinglePointCalculator(atoms, energy=free[str(atoms.symbols)], forces=np.zeros((1, 3)))
    file = saved(tmp_path / "all.xyz", frames + alone)
    assert train(tmp_path, "--train", file, "--valid", "0.3", steps=1) == 0
    assert "reference energies: H, C, O from isolated atoms; N by least squares" in capsys.readouterr().out
    start = tmp_path / "runs" / "potential" / "potential.pt"
    energies = load_potential(start).element_energies()
    assert energies[[1, 6, 8]].tolist() == pytest.approx([-13.6, -1029.0, -2042.0])
    for atoms in alone:
        atoms.calc.results["energy"] += 5.0
    other = saved(tmp_path / "other.xyz", frames + alone)
    assert train(tmp_path, "--train", other, "--checkpoint", start, "--lr=1e-9", steps=1) == 0
    assert "H, C, O from isolated atoms" in capsys.readouterr().out
    model = EquiformerCalculator(tmp_path / "runs" / "potential-2" / "potential.pt")
    assert model.get_potential_energy(Atoms("H")) == pytest.approx(-8.6, abs=1e-4)


def test_nothing_to_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, bare = saved(tmp_path / "all.xyz", molecules(6)), saved(tmp_path / "bare.xyz", [molecule("H2O")] * 2)
    assert train(tmp_path, "--train", file, "--valid", bare) == 2
    assert "no structure to validate on has energy or forces" in capsys.readouterr().err


# ---- targets


def with_targets(count: int) -> list[Atoms]:
    """Dipoles, charges and polarizabilities that follow from the positions."""
    frames = molecules(count)
    for atoms in frames:
        charges = np.where(atoms.numbers == 1, 0.3, -0.1)
        atoms.info["mu"] = charges @ (atoms.positions - atoms.positions.mean(0))
        atoms.arrays["q"] = charges
        spread = atoms.positions - atoms.positions.mean(0)
        atoms.info["polarizability"] = spread.T @ spread + np.eye(3)
    return frames


TARGETS = ["--targets", "dipole=1", "charges=0:atom", "polarizability=0+2", "--keys", "dipole=mu", "charges=q"]


@pytest.mark.parametrize("with_energies", [True, False])
@pytest.mark.slow
def test_targets_are_learned(tmp_path: Path, with_energies: bool, capsys: pytest.CaptureFixture[str]) -> None:
    frames = with_targets(24)
    if not with_energies:
        for atoms in frames:
            atoms.calc = None
    del frames[3].info["mu"]
    file = saved(tmp_path / "all.xyz", frames)
    options = [*TARGETS, "--num-degrees=3", "--target-weights", "dipole=2", "--validate-every=20"]
    assert train(tmp_path, "--train", file, "--valid", 0.2, "--test", file, *options, steps=60) == 0
    printed = capsys.readouterr().out
    assert "23 with dipole, 24 with charges, 24 with polarizability_0, 24 with polarizability_2" in printed
    assert ("with energy" in printed) == with_energies
    model = load_potential(tmp_path / "runs" / "potential" / "potential.pt")
    assert set(model.targets) == {"dipole", "charges", "polarizability_0", "polarizability_2"}
    losses = [float(row["train"]) for row in metrics_of(tmp_path / "runs" / "potential")]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])

    keys = ["--keys", "dipole=mu", "charges=q"]
    figures = json.loads(evaluated(tmp_path, file, *keys))["all"]["all"]
    assert figures["dipole"]["structures"] == 23
    assert figures["charges"]["mae"] < 0.6 * np.abs(np.concatenate([a.arrays["q"] for a in frames])).mean()
    predicted = frames_of(tmp_path / "out" / "predictions.xyz")
    parts = np.stack([atoms.info["predicted_polarizability"].reshape(3, 3) for atoms in predicted])
    true = np.stack([atoms.info["polarizability"] for atoms in frames])
    wanted = np.abs(isotropic_part(parts) - isotropic_part(true)).mean()
    assert figures["polarizability_0"]["mae"] == pytest.approx(wanted, rel=1e-4)
    wanted = np.abs(traceless_part(parts) - traceless_part(true)).mean()
    assert figures["polarizability_2"]["mae"] == pytest.approx(wanted, rel=1e-4)
    energy = EquiformerCalculator(model).get_potential_energy(frames[0])
    assert (energy == 0) != with_energies


def test_targets_of_a_potential_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "all.xyz", with_targets(8))
    assert train(tmp_path, "--train", file, *TARGETS) == 0
    start = tmp_path / "runs" / "potential" / "potential.pt"
    assert train(tmp_path, "--train", file, "--checkpoint", start) == 2
    assert "has the target dipole: --keys dipole=NAME" in capsys.readouterr().err
    assert train(tmp_path, "--train", file, "--checkpoint", start, "--keys", "dipole=mu", "charges=q") == 0


# ---- what energies depend on beside the geometry


def charged(count: int) -> list[Atoms]:
    """Water whose energy is its charge, under another name."""
    frames = []
    for seed in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        atoms.info["q"] = seed % 3 - 1
        atoms.calc = SinglePointCalculator(atoms, energy=5.0 * (seed % 3), forces=np.zeros((3, 3)))
        frames.append(atoms)
    return frames


@pytest.mark.slow
def test_inputs_are_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "all.xyz", charged(24))
    given = ("--train", file, "--keys", "charge=q")
    assert train(tmp_path, *given, "--inputs", "charge=-2..2", "field=any:atom", "--lr=0.03", steps=200) == 0
    potential = tmp_path / "runs" / "potential" / "potential.pt"
    calculator = EquiformerCalculator(potential)
    energies = []
    for charge in (-1, 0, 1):
        atoms = molecule("H2O")
        atoms.info["charge"] = charge
        energies.append(calculator.get_potential_energy(atoms))
    assert np.diff(energies) == pytest.approx([5, 5], abs=1)
    assert call("evaluate", potential, file, "--keys", "charge=q", "--out", tmp_path / "with") == 0
    assert call("evaluate", potential, file, "--out", tmp_path / "without") == 0
    errors = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("with", "without")]
    with_charge, without = (found["all"]["all"]["energy"]["mae"] for found in errors)
    assert without > 3 * with_charge
    assert train(tmp_path, *given, "--checkpoint", potential) == 0
    assert train(tmp_path, *given, "--checkpoint", potential, "--inputs", "charge=0..1") == 2
    capsys.readouterr()
    assert call("info", potential) == 0
    told = capsys.readouterr().out
    assert "charge (-2 … 2 per structure, 0 by default), field (any number per atom, 0 by default)" in told


def test_inputs_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = charged(4)
    for atoms in frames:
        atoms.info["charge"] = atoms.info.pop("q")
    file = saved(tmp_path / "all.xyz", frames)
    for given, words in (
        ("charge=1", "--inputs charge=1 is not NAME=LEAST..MOST"),
        ("charge=2..-2", "least ≤ most"),
        ("charge=0..1", "record 0: charge: -1, wanted whole numbers in 0 … 1"),
        ("pos=any", "inputs must have names of their own"),
    ):
        assert train(tmp_path, "--train", file, "--inputs", given) == 2
        assert words in capsys.readouterr().err
    assert train(tmp_path, "--train", file, "--valid", "0.3", steps=1) == 0
    assert "no input takes charge (in 3 of 4 records)" in capsys.readouterr().out


# ---- data sets larger than memory


@pytest.mark.parametrize("suffix", ["xyz", "db", *["aselmdb"] * (find_spec("ase_db_backends") is not None)])
@pytest.mark.slow
def test_lazily_and_in_workers(tmp_path: Path, suffix: str) -> None:
    """The same run, to the bit."""
    files = [saved(tmp_path / f"train.{suffix}", molecules(12)), saved(tmp_path / f"valid.{suffix}", molecules(4))]
    options = ["--train", files[0], "--valid", files[1], "--validate-every=3"]
    plain = [saved(tmp_path / "train_plain.traj", molecules(12)), saved(tmp_path / "valid_plain.traj", molecules(4))]
    if suffix == "xyz":  # which rounds
        plain = files
    assert train(tmp_path, "--train", plain[0], "--valid", plain[1], "--validate-every=3", steps=6) == 0
    assert train(tmp_path, *options, "--lazy", "--workers=2", steps=6) == 0
    assert train(tmp_path, *options, "--lazy", "--species", "H", "6", "N", "O", "--max-edges=9", steps=6) == 0
    runs = [metrics_of(tmp_path / "runs" / name) for name in ("potential", "potential-2", "potential-3")]
    assert runs[0] == runs[1]
    for row, other in zip(runs[0], runs[2], strict=True):
        for name in ("train", "valid", "grad_norm"):
            assert float(row[name] or 0) == pytest.approx(float(other[name] or 0), rel=1e-3)


def test_damaged_records_do_not_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, valid = saved(tmp_path / "train.db", molecules(12)), saved(tmp_path / "valid.db", molecules(6))
    for path in (file, valid):
        with sqlite3.connect(path) as raw:
            raw.execute("update systems set positions = ? where id in (2, 5)", (b"damaged",))
    options = ["--train", file, "--valid", valid]
    assert train(tmp_path, *options, steps=6) == 2
    assert "train.db, record 1: " in capsys.readouterr().err
    assert train(tmp_path, *options, "--lazy", "--workers=1", steps=6) == 0
    printed = capsys.readouterr().out
    assert "2 records to train on could not be used" in printed
    assert "train.db, record 4: " in printed
    assert "validation: 4 structures, 4 with forces, 4 with energy; 2 that could not be used" in printed
    assert train(tmp_path, *options, "--skip-damaged", steps=6) == 0
    assert "10 train (10 energies" in capsys.readouterr().out


def test_strange_elements_in_a_lazy_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "train.db", molecules(9) + crystals(1, "energy", "forces"))
    assert train(tmp_path, "--train", file, "--lazy", "--species", "H", "C", "N", "O", steps=12) == 0
    assert "record 9: atomic numbers [13], which the potential does not know" in capsys.readouterr().out


@pytest.mark.parametrize("most", [1, 20, 50])
@pytest.mark.slow
def test_pieces_give_the_same(tmp_path: Path, most: int) -> None:
    """Batches of at most so many edges, whatever labels their structures have."""
    frames = [*molecules(6, "energy"), *molecules(6), labelled(Atoms("H"), "energy", "forces")]
    file = saved(tmp_path / "all.xyz", frames)
    runs = []
    for name, more in (("whole", []), ("pieces", ["--max-edges", most])):
        assert train(tmp_path, "--train", file, "--name", name, *more, steps=5) == 0
        runs.append(metrics_of(tmp_path / "runs" / name))
    for whole, pieces in zip(*runs, strict=True):
        assert float(whole["train"]) == pytest.approx(float(pieces["train"]), rel=1e-3)
        assert float(whole["grad_norm"]) == pytest.approx(float(pieces["grad_norm"]), rel=1e-2)


# Threads of gloo that are there when the interpreter is taken down may abort it; Linux names them.
ENDS = """
import sys
from pathlib import Path
from equiformer_pytorch.cli.main import main
code = main(sys.argv[1:])
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Of whose batches one may have a label that the other lacks, in pieces, with workers; the process group is gone
    when the command is done."""
    (tmp_path / "ends.py").write_text(ENDS)
    file = saved(tmp_path / "all.xyz", molecules(5, "energy") + molecules(5, "forces") + crystals(3))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    options = ["--runs", str(tmp_path / "runs"), "--train", str(file), *MODEL, *SMALL, "--steps=4", "--max-edges=40"]
    program = [str(tmp_path / "ends.py"), "train", *options, "--name", "two", "--batch-size=1", "--workers=1"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launch, *program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    assert train(tmp_path, "--train", file, "--batch-size=1", "--accumulate=2", "--name", "one") == 0
    rows = [[float(row["train"]) for row in metrics_of(tmp_path / "runs" / name)] for name in ("two", "one")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)


# ---- trackers


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard(tmp_path: Path) -> None:
    file = saved(tmp_path / "all.xyz", molecules(8))
    assert train(tmp_path, "--train", file, "--log-with", "tensorboard") == 0
    assert list((tmp_path / "runs" / "potential").rglob("events.out.tfevents.*"))


def test_trackers_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "all.xyz", molecules(8))
    absent = next(name for name, package in (("wandb", "wandb"), ("mlflow", "mlflow")) if find_spec(package) is None)
    assert train(tmp_path, "--train", file, "--log-with", absent) == 2
    assert f"--log-with {absent}: its package is missing" in capsys.readouterr().err
    assert train(tmp_path, "--train", file, "--log-with", "abacus") == 2
    assert "Unsupported logging capability: abacus" in capsys.readouterr().err


# ---- evaluate and info


def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [*molecules(9), labelled(molecule("CO2"), "energy")]
    for number, atoms in enumerate(frames):
        atoms.info["config_type"] = ("cold", "hot")[number % 2]
    file = saved(tmp_path / "all.xyz", frames)
    assert train(tmp_path, "--train", file) == 0
    more = saved(tmp_path / "more.traj", crystals(2))
    capsys.readouterr()
    figures = json.loads(evaluated(tmp_path, file, "--max-edges=30", "--workers=1"))
    printed = capsys.readouterr().out
    for words in ("by element", "by config_type", "hot", "cold"):
        assert words in printed
    assert (tmp_path / "out" / "evaluation.txt").read_text().strip() in printed
    assert (tmp_path / "out" / "parity.png").read_bytes().startswith(b"\x89PNG")
    calculator = EquiformerCalculator(tmp_path / "runs" / "potential" / "potential.pt")
    predicted = frames_of(tmp_path / "out" / "predictions.xyz")
    assert len(predicted) == 10
    errors = {"H": [], "hot": []}
    for atoms, new in zip(frames, predicted, strict=True):
        forces = np.asarray(calculator.get_forces(atoms))
        np.testing.assert_allclose(new.arrays["predicted_forces"], forces, atol=2e-5)
        assert new.info["predicted_energy"] == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-4)
        assert new.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        if "forces" in atoms.calc.results:
            off = np.abs(forces - atoms.get_forces())
            errors["H"].append(off[atoms.numbers == 1])
            errors["hot"] += [off] * (atoms.info["config_type"] == "hot")
    for title, name in (("element", "H"), ("config_type", "hot")):
        assert figures[title][name]["forces"]["mae"] == pytest.approx(np.concatenate(errors[name]).mean(), rel=1e-3)
    assert figures["element"]["O"]["energy"]["structures"] == 4
    assert figures["element"]["O"]["forces"]["structures"] == 3
    potential = tmp_path / "runs" / "potential" / "potential.pt"
    assert call("evaluate", potential, file, more, "--out", tmp_path / "out") == 0
    assert "all: 10 structures, 9 with forces, 10 with energy; 2 that could not be used" in capsys.readouterr().out
    for arguments, said in (
        ((tmp_path / "none.pt", file), "none.pt"),
        ((potential, tmp_path / "none.xyz"), "there is no file"),
        ((potential, potential), "potential.pt"),
    ):
        assert call("evaluate", *arguments, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1, error


def test_evaluate_a_potential_of_open_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It sees no images: periodic structures are refused, as where it is trained."""
    potential = published_cases.build("v2", use_pbc=False)
    potential.save(tmp_path / "open.pt")
    frames = crystals(1) + molecules(2)
    for atoms in frames:
        atoms.calc = EquiformerCalculator(potential)
        atoms.get_forces()
    file = saved(tmp_path / "both.xyz", frames)
    assert call("evaluate", tmp_path / "open.pt", file, "--out", tmp_path / "out") == 0
    assert "all: 2 structures, 2 with forces, 2 with energy; 1 that could not be used" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))["all"]["all"]
    assert figures["forces"]["rmse"] < 1e-6
    assert call("evaluate", tmp_path / "open.pt", saved(tmp_path / "crystal.xyz", frames[:1])) == 2
    assert "record 0: it is periodic, and the potential does not see it so (use_pbc=False)" in capsys.readouterr().err


def test_evaluate_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions all the same, with a stress where there is a volume."""
    assert train(tmp_path, "--train", saved(tmp_path / "all.xyz", crystals(6))) == 0
    bare = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=True) for a in crystals(2)] + [Atoms("Al")]
    evaluated(tmp_path, saved(tmp_path / "bare.xyz", bare))
    assert "none with a label" in capsys.readouterr().out
    predicted = frames_of(tmp_path / "out" / "predictions.xyz")
    assert ["predicted_stress" in atoms.info for atoms in predicted] == [True, True, False]
    assert all("predicted_forces" in atoms.arrays for atoms in predicted)


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = with_targets(9)
    frames[2].info["REF_energy"] = 3.0
    file = saved(tmp_path / "all.xyz", frames)
    assert train(tmp_path, "--train", file, *TARGETS) == 0
    capsys.readouterr()
    folder = tmp_path / "runs" / "potential"
    for what in (folder, folder / "potential.pt"):
        assert call("info", what) == 0
        printed = " ".join(capsys.readouterr().out.split())
        for words in (
            "model EquiformerPotential", "elements H, C, N, O", "cutoff 4.5 Å", "gives energy, forces, stress",
            "dipole (1 of degree 1 per structure)", "charges (1 of degree 0 per atom)", "float32", "dim=4",
            "reference energies H ", "training 4 steps with equiformer-pytorch", "8 train (8 energies, 8 forces",
        ):  # fmt: skip
            assert words in printed, words
    parameters = sum(weight.numel() for weight in load_potential(folder / "potential.pt").parameters())
    assert f"parameters {parameters:,}" in printed
    assert call("info", folder / "checkpoint.pt", file) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "of a run, at step 4 of 4", "structures 9", "atoms 3 – 5", "labels energy (9), forces (9)",
        "nothing reads REF_energy (in 1 of 9 records)", "polarizability (9)",
    ):  # fmt: skip
        assert words in printed, words
    EquiformerPotential(species=[1], dim=4, depth=1).save(tmp_path / "new.pt")
    assert call("info", tmp_path / "new.pt") == 0
    assert "training" not in capsys.readouterr().out
    (tmp_path / "text.pt").write_text("no potential")
    assert call("info", tmp_path / "text.pt", tmp_path / "none.xyz", tmp_path) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("text.pt", "none.xyz", "neither potential.pt nor checkpoint.pt"))


# ---- the command itself


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    assert "the commands are train, evaluate, info; which one?" in capsys.readouterr().err
    assert call("foretell") == 2
    assert "got foretell" in capsys.readouterr().err
    assert call("--version") == 0
    for command in ("train", "evaluate", "info"):
        assert call(command, "--help") == 0
        assert call(command, "--nonsense") == 2
    assert call("--help") == 0


def test_help_is_quick() -> None:
    """It imports no torch."""
    code = """
import sys
from equiformer_pytorch.cli.main import main
main(['--help'])
try:
    main(['train', '--help'])
except SystemExit:
    assert not {'torch', 'accelerate', 'ase'} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


@pytest.mark.slow
def test_neither_sidechainnet_nor_openmm(tmp_path: Path) -> None:
    file = saved(tmp_path / "all.xyz", molecules(8))
    arguments = ["train", "--runs", str(tmp_path / "runs"), "--train", str(file), *MODEL, *SMALL, "--steps=1"]
    code = f"""
import sys
for name in ("sidechainnet", "openmm", "tblite", "examples"):
    sys.modules[name] = None
from equiformer_pytorch.cli.main import main
sys.exit(main({arguments!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--valid", "0.5"], "--train is missing"),
        (["--train", "none.xyz"], "there is no file none.xyz"),
        (["--train", "FILE", "--valid", "0.6", "--test", "0.5"], "leave nothing to train on"),
        (["--train", "FILE", "--keys", "energy"], "energy is not NAME=VALUE"),
        (["--train", "FILE", "--keys", "hessian=H"], "keys must be of"),
        (["--train", "FILE", "--targets", "dipole=one"], "--targets dipole=one is not"),
        (["--train", "FILE", "--targets", "dipole=1"], "has the target dipole"),
        (["--train", "FILE", "--target-weights", "dipole=1"], "--target-weights has ['dipole']"),
        (["--train", "FILE", "--species", "H", "Qq"], "--species Qq is neither"),
        (["--train", "FILE", "--species", "H"], "train has atomic numbers [6, 7, 8]"),
        (["--train", "FILE", "--max-edges", "0"], "0 is not at least 1"),
        (["--data", "nowhere"], "must have train.xyz"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path / "all.xyz", molecules(6))
    assert train(tmp_path, *(str(file) if text == "FILE" else text for text in arguments)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1, error
    assert not (tmp_path / "runs").exists()
