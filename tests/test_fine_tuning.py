"""`examples.train_potential --checkpoint`: what a file holds is trained on, and comes back as potential.pt."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra examples")
pytest.importorskip("ase", reason="needs the extra atoms")

from ase.io import write

from equiformer_pytorch import EquiformerPotential, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms import EquiformerCalculator, Target, load_potential, load_structures
from equiformer_pytorch.training.checkpoint import load_checkpoint, save_checkpoint
from equiformer_pytorch.training.metrics import read_metrics
from equiformer_pytorch.training.potentials.errors import errors
from equiformer_pytorch.training.potentials.tables import table
from tests.models import mostly_slow
from tests.potential_program import ROOT, call, frames_of, make_crystals, make_data
from tests.programs import ENVIRONMENT, metrics_of
from tests.published_cases import GRADIENT, V2, V3

KINDS = {
    "v2": (EquiformerV2, V2),
    "v3": (EquiformerV3, {**V3, "drop_path_rate": 0.1}),
    "gradient": (EquiformerV3, {**GRADIENT, "attn_weights_drop": 0.1, "drop_path_rate": 0.1}),
    "own": (EquiformerPotential, {"species": [1, 6, 8], "dim": 4, "num_degrees": 2, "depth": 1, "heads": 1}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def begin(kind: str, folder: Path, **changes: object) -> Path:
    """A file to go on from."""
    torch.manual_seed(0)
    cls, config = KINDS[kind]
    path = folder / f"{'-'.join((kind, *changes))}.pt"
    cls(**{**config, **changes}).save(path)
    return path


@pytest.mark.parametrize("kind", mostly_slow(KINDS, "gradient"))
def test_learns_and_gives_what_was_evaluated(kind: str, data: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", begin(kind, tmp_path), "--batch-size=4", "--warmup=3", "--ema=0.9", "--lr=0.005"]
    assert call("--runs", tmp_path, "--data", data, *options, "--steps=40") == 0
    folder = tmp_path / "potential"
    losses = [float(row["train"]) for row in metrics_of(folder)]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])

    model = load_potential(folder / "potential.pt")
    assert type(model) is KINDS[kind][0]
    assert not model.training
    calculator = EquiformerCalculator(folder / "potential.pt")
    found = {}
    for split in ("test", "test_molecules"):
        structures = load_structures(data / f"{split}.xyz", model.cutoff, max_neighbors=model.max_neighbors)
        found[split] = errors(model, structures)
        frames = frames_of(data / f"{split}.xyz")
        forces = np.concatenate([np.asarray(calculator.get_forces(atoms)) for atoms in frames])
        np.testing.assert_allclose(forces, found[split].compared["forces"].predicted, atol=2e-5)
        off = [(calculator.get_potential_energy(a) - a.get_potential_energy()) / len(a) for a in frames]
        energies = found[split].compared["energy"]
        np.testing.assert_allclose(off, energies.predicted - energies.true, atol=2e-5)
    assert (folder / "evaluation.txt").read_text() == table(found) + "\n"


def test_a_run_of_an_older_version_goes_on(data: Path, tmp_path: Path) -> None:
    """With the defaults of that version, which are others now."""
    options = ["--checkpoint", begin("own", tmp_path), "--batch-size=4", "--lr=0.005"]
    assert call("--runs", tmp_path, "--data", data, *options, "--steps=2") == 0
    path = tmp_path / "potential" / "checkpoint.pt"
    content = load_checkpoint(path)
    for name in ("optimizer", "radial_basis"):
        del content["about"][name]
    content["about"]["cutoff"] = 4.5
    save_checkpoint(path, content)
    assert call("--runs", tmp_path, "--resume", "--steps=3") == 0
    assert len(metrics_of(tmp_path / "potential")) == 3
    assert load_checkpoint(path)["about"]["optimizer"] == "adamw"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("own", {"species": [13], "cutoff": 4.0}), ("v3", {"regress_stress": True}), ("gradient", {})],
)
@pytest.mark.slow
def test_learns_stress(kind: str, changes: dict, tmp_path: Path) -> None:
    """Where the data have it; and the calculator gives what was learned."""
    data = tmp_path / "crystals"
    data.mkdir()
    make_crystals(data)
    start = begin(kind, tmp_path, **changes)
    options = ["--data", data, "--checkpoint", start, "--batch-size=4", "--warmup=3", "--ema=0.9", "--lr=0.005"]
    model = load_potential(start)
    structures = load_structures(data / "test.xyz", model.cutoff, max_neighbors=model.max_neighbors)
    before = errors(model, structures).stress_mae
    assert before is not None
    learned = {}
    for weight in (1e-9, 10):
        name = f"weight{weight}"
        assert call("--runs", tmp_path, *options, "--steps=40", "--name", name, f"--stress-weight={weight}") == 0
        model = load_potential(tmp_path / name / "potential.pt")
        found = errors(model, structures)
        learned[weight] = found.stress_mae
        calculator = EquiformerCalculator(model)
        for atoms, stress in zip(frames_of(data / "test.xyz"), found.compared["stress"].predicted, strict=True):
            atoms.calc = calculator
            np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=2e-6)
        assert f"{1e3 * learned[weight]:.3f}" in (tmp_path / name / "evaluation.txt").read_text()
    assert learned[10] < 0.7 * min(before, learned[1e-9]), (before, learned)


def test_some_structures_without_stress(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What there is is learned, and counted."""
    make_crystals(tmp_path)
    frames = frames_of(tmp_path / "train.xyz")
    assert frames[5].calc is not None
    del frames[5].calc.results["stress"]
    write(tmp_path / "train.xyz", frames, format="extxyz")
    assert call("--runs", tmp_path, "--data", tmp_path, "--steps=2", "--dim=4", "--depth=1") == 0
    printed = capsys.readouterr().out
    assert "12 train (12 energies, 12 forces, 11 stresses)" in printed
    assert "held-out geometries: 4 structures, 4 with forces, 4 with energy, 4 with stress" in printed


@pytest.mark.slow
def test_another_zero_of_energy(data: Path, tmp_path: Path) -> None:
    """Data that differ by an energy per atom are learned alike: references are fitted anew."""
    other, shift = tmp_path / "other", {"H": -13.5, "C": -1030.0, "O": -2040.0}
    other.mkdir()
    for path in data.glob("*.xyz"):
        frames = frames_of(path)
        for atoms in frames:
            assert atoms.calc is not None
            atoms.calc.results["energy"] += sum(shift[symbol] for symbol in atoms.symbols)
        write(other / path.name, frames, format="extxyz")
    start = begin("gradient", tmp_path)
    energies = []
    for folder, name in ((data, "here"), (other, "there")):
        options = ["--data", folder, "--checkpoint", start, "--steps=4", "--batch-size=2", "--name", name]
        assert call("--runs", tmp_path, *options) == 0
        calculator = EquiformerCalculator(tmp_path / name / "potential.pt")
        energies.append([calculator.get_potential_energy(atoms) for atoms in frames_of(data / "test.xyz")])
    assert np.subtract(energies[1], energies[0]) == pytest.approx(shift["C"] + 4 * shift["H"], abs=1e-3)


@pytest.mark.slow
def test_killed_and_resumed_without_the_first_file(data: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "examples.train_potential", "--runs", tmp_path]
    options = ["--data", data, "--steps=30", "--batch-size=2", "--checkpoint-every=3", "--validate-every=10"]
    start = begin("gradient", tmp_path)

    def run(command: list) -> None:
        subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True)

    run([*program, *options, "--checkpoint", start, "--name", "whole"])
    command = [*program, *options, "--checkpoint", start, "--name", "parts"]
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL)
    folder, deadline = tmp_path / "parts", time.monotonic() + 60
    while not (folder / "metrics.csv").exists() or len(read_metrics(folder / "metrics.csv")) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= len(metrics_of(folder)) < 30
    start.unlink()
    run([*program, "--resume", "parts"])
    assert metrics_of(folder) == metrics_of(tmp_path / "whole")
    whole, parts = (torch.load(tmp_path / name / "potential.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(parts["state_dict"][name], weight) for name, weight in whole["state_dict"].items())
    references = [file["elementrefs"]["energy"]["element_references"] for file in (whole, parts)]
    assert torch.equal(*references)


def test_a_head_that_nothing_trains_is_left_out(data: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", begin("v3", tmp_path), "--steps=1", "--batch-size=2"]
    assert call("--runs", tmp_path, "--data", data, *options) == 0
    trained = load_potential(tmp_path / "potential" / "potential.pt")
    assert isinstance(trained, EquiformerV3)
    assert trained.stress_block is None


def test_mistakes_get_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, v2 = tmp_path / "runs", begin("v2", tmp_path)
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    torch.save({**torch.load(v2, weights_only=True), "config": {"depth": 3}}, tmp_path / "depth.pt")
    (tmp_path / "unlabelled").mkdir()
    for path in data.glob("*.xyz"):
        text = path.read_text().replace(":forces:R:3", ":F:R:3").replace(" energy=", " REF_energy=")
        (tmp_path / "unlabelled" / path.name).write_text(text)
    for options, said in (
        (["--checkpoint", tmp_path / "none.pt"], ("--checkpoint", "none.pt")),
        (["--checkpoint", tmp_path / "text.pt"], ("--checkpoint", "text.pt")),
        (["--checkpoint", tmp_path / "epoch.pt"], ("--checkpoint", "epoch.pt", "EquiformerV3")),
        (["--checkpoint", tmp_path / "depth.pt"], ("--checkpoint", "depth.pt", "EquiformerV2", "depth")),
        (["--checkpoint", v2, "--num-degrees=3", "--dim", "8"], ("leave out --dim",)),
        (["--checkpoint", begin("own", tmp_path, species=[1, 6])], ("[8]", "does not know")),
        (["--checkpoint", begin("gradient", tmp_path, max_num_elements=7)], ("[8]", "does not know")),
        (["--checkpoint", begin("own", tmp_path, targets={"charges": Target(0)})], ("charges", "--keys charges=NAME")),
        (["--checkpoint", begin("v2", tmp_path, regress_forces=False)], ("gives no forces",)),
        (["--data", tmp_path / "unlabelled"], ("no structure to train on has energy", "--keys energy=")),
    ):
        assert call("--runs", runs, "--data", data, *options) == 2, options
        error = capsys.readouterr().err
        assert all(words in error for words in said), error
        assert error.count("\n") == 1, error
    assert not runs.exists()
