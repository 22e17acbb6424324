"""`python -m examples.qm9` as its user meets it: options, errors, whole small runs, and stops."""

from __future__ import annotations

import dataclasses
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra atoms")

from equiformer_pytorch.base.saved import read_saved
from equiformer_pytorch.cli.program import main
from equiformer_pytorch.training import load_checkpoint
from equiformer_pytorch.training.metrics import read_metrics
from examples.qm9 import __main__ as program
from examples.qm9.model import MoleculeProperty
from examples.qm9.properties import PROPERTIES
from examples.qm9.settings import Settings
from tests.programs import ENVIRONMENT, exit_code, metrics_of

ROOT = Path(program.__file__).resolve().parents[2]
SMALL = [
    *("--data", str(ROOT / "data" / "qm9"), "--train=60", "--dim=8", "--depth=1", "--num-degrees=3", "--cutoff=2.5"),
    *("--batch-size=4", "--validate-every=2", "--checkpoint-every=3"),
]
COMMAND = [sys.executable, "-m", "examples.qm9"]


def call(*arguments: object) -> int:
    """The program in this process; the exit code."""
    return exit_code(partial(main, program.PROGRAM), arguments)


def test_help_explains_every_option_at_once() -> None:
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)  # which would take seconds
    for field in dataclasses.fields(Settings):
        assert "--" + field.name.replace("_", "-") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--property", "colour"], "--property"),
        (["--train", "1"], "1 is not at least 2"),
        (["--data", "nowhere"], "nowhere has not the files of qm9pack"),
        ([*SMALL, "--train", "1000"], "there are 216 molecules to train on, not 1000"),
        (["--resume", "never"], "there is no checkpoint"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--runs", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["u0", "homo", "mu", "r2", "tensor"])
def test_whole_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--runs", tmp_path, *SMALL, "--steps=3", "--property", name, "--name=run") == 0
    folder = tmp_path / "run"
    printed = capsys.readouterr().out
    assert f"{name} of 27 test molecules, {PROPERTIES[name].unit}" in printed
    assert (folder / "evaluation.txt").read_text().strip() in printed
    assert [row["step"] for row in metrics_of(folder) if row["valid"]] == ["2", "3"]
    for picture in ("learning.png", "parity.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    saved = read_saved(folder / "model.pt")
    options = {key: value for key, value in saved["config"].items() if key not in ("species", "targets")}
    model = MoleculeProperty(saved["kind"], options)
    model.load_state_dict(saved["state_dict"])
    assert all(torch.isfinite(x).all() for x in model.state_dict().values())


def test_losses(tmp_path: Path) -> None:
    """The first batch is the same: in the units of the loss, its squares and its sizes."""
    losses = []
    for loss in ("squares", "sizes"):
        assert call("--runs", tmp_path, *SMALL, "--steps=1", "--batch-size=1", "--loss", loss, "--name", loss) == 0
        losses.append(float(metrics_of(tmp_path / loss)[0]["train"]))
    assert losses[0] == pytest.approx(losses[1] ** 2, rel=1e-4)


@pytest.mark.slow
def test_out_of_time_then_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--runs", tmp_path, *SMALL, "--steps", 3]
    assert call(*arguments, "--name", "whole") == 0
    assert call(*arguments, "--name", "parts", "--max-minutes", 1e-9) == 0
    assert "time is up at step 1 of 3; --resume parts goes on" in capsys.readouterr().out
    assert call("--runs", tmp_path, "--resume") == 0
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    long = [*COMMAND, *SMALL, "--runs", str(tmp_path), "--steps=16", "--property=tensor"]
    subprocess.run([*long, "--name=whole"], env=ENVIRONMENT, check=True, capture_output=True, cwd=ROOT)
    process = subprocess.Popen([*long, "--name=parts"], env=ENVIRONMENT, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline, metrics = time.monotonic() + 60, tmp_path / "parts" / "metrics.csv"
    while not metrics.exists() or len(read_metrics(metrics)) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(metrics_of(tmp_path / "parts")) < 16
    resume = [*COMMAND, "--runs", str(tmp_path), "--resume", "parts"]
    subprocess.run(resume, env=ENVIRONMENT, check=True, capture_output=True, cwd=ROOT)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    texts = [(tmp_path / name / "evaluation.txt").read_text() for name in ("parts", "whole")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """What is fitted first, and what is learned, are the same in both; of the tensor, the most that there is."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    own = ["--runs", str(tmp_path), *SMALL, "--steps=3", "--property=tensor"]
    done = subprocess.run(
        [*launch, "-m", "examples.qm9", *own, "--name=two"], env=ENVIRONMENT, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    assert load_checkpoint(tmp_path / "two" / "checkpoint.pt")["processes"] == 2
    assert call(*own, "--accumulate", 2, "--name", "one") == 0
    rows = [[float(row["train"]) for row in metrics_of(tmp_path / run)] for run in ("two", "one")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
