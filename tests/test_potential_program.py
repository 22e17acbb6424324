"""`examples.train_potential` as its user meets it: a whole small run, stops, mistakes, the potential that it leaves."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="needs the extra examples")
pytest.importorskip("ase", reason="needs the extra atoms")

from equiformer_pytorch.atoms import EquiformerCalculator
from equiformer_pytorch.training.metrics import read_metrics
from examples.potential import dynamics
from tests.potential_program import ROOT, call, frames_of, make_data
from tests.programs import ENVIRONMENT, metrics_of

SMALL = [
    "--dim",
    "4",
    "--num-degrees=2",
    "--depth=1",
    "--heads=1",
    "--batch-size=2",
    "--checkpoint-every=3",
    "--warmup=5",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def test_whole_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--runs", tmp_path, "--data", data, *SMALL, "--steps=60", "--validate-every=20", "--lr=0.02") == 0
    folder, printed = tmp_path / "potential", capsys.readouterr().out
    assert "held-out geometries" in printed
    assert "held-out molecules" in printed
    assert (folder / "evaluation.txt").read_text().strip() in printed
    for name in ("learning.png", "parity.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    rows = metrics_of(folder)
    assert [row["step"] for row in rows if row["valid"]] == ["20", "40", "60"]
    assert float(rows[-1]["valid"]) < 0.9 * float(rows[19]["valid"])

    atoms = frames_of(data / "test.xyz")[0]
    atoms.calc = EquiformerCalculator(folder / "potential.pt")
    assert np.isfinite(atoms.get_forces()).all()

    command = [str(folder / "potential.pt"), "--molecule", "CH4", "--picoseconds", "0.02"]
    assert dynamics.main(command) == 0
    assert "meV/atom per 10 ps" in capsys.readouterr().out
    assert (folder / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    assert dynamics.main([str(folder / "none.pt")]) == 2
    assert "none.pt" in capsys.readouterr().err


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "examples.train_potential", "--runs", runs, "--data", data]
    command += [*SMALL, "--steps=60", "--name", "whole"]
    subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True)
    return runs / "whole"


@pytest.mark.xdist_group("potential")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
def test_stopped_and_resumed(data: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    program = [sys.executable, "-m", "examples.train_potential", "--runs", tmp_path]
    begin = [*program, "--data", data, *SMALL, "--steps=60"]
    process = subprocess.Popen([*begin, "--name", "parts"], env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL)
    folder, deadline = tmp_path / "parts", time.monotonic() + 60
    while not (folder / "metrics.csv").exists() or len(read_metrics(folder / "metrics.csv")) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.wait()
    assert 5 <= len(metrics_of(folder)) < 60
    command = [*program, "--resume", "parts"]
    subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True)
    assert metrics_of(folder) == metrics_of(undisturbed)
    assert (folder / "evaluation.txt").read_text() == (undisturbed / "evaluation.txt").read_text()


def test_mistakes_get_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    torn = tmp_path / "torn"
    torn.mkdir()
    for path in data.glob("*.xyz"):
        (torn / path.name).write_text(path.read_text())
    text = (torn / "train.xyz").read_text().splitlines()
    (torn / "train.xyz").write_text("\n".join(text[:-3]) + "\n")
    for arguments, said in (
        (["--data", tmp_path / "nowhere"], "must have train.xyz"),
        (["--data", torn], "train.xyz"),
        (["--data", data, "--cutoff", "0"], "0 is not above 0"),
        (["--attention", "dot"], "--attention"),
        (["--resume"], "there is no run"),
    ):
        assert call("--runs", runs, *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1, error


@pytest.mark.slow
def test_two_processes(data: Path, tmp_path: Path) -> None:
    """Two processes see what one sees in two micro-batches."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    options = ["--runs", str(tmp_path), "--data", str(data), *SMALL, "--steps=4"]
    program = ["-m", "examples.train_potential", *options, "--name", "two"]
    done = subprocess.run([*launch, *program], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    assert call(*options, "--accumulate", 2, "--name", "one") == 0
    rows = [[float(row["train"]) for row in metrics_of(tmp_path / name)] for name in ("two", "one")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
