"""`denoise.py` as its user meets it: options, errors, a whole small run, and stops of every kind."""

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

pytest.importorskip("sidechainnet", reason="needs the extra examples")


import denoise
from equiformer_pytorch.cli.program import main, make_parser
from equiformer_pytorch.training import load_checkpoint, save_checkpoint
from equiformer_pytorch.training.metrics import read_metrics
from examples.denoising.settings import Settings
from tests.programs import ENVIRONMENT, exit_code, metrics_of

PROGRAM = Path(denoise.__file__)
SMALL = ["--dim", "8", "4", "--depth=1", "--crop=12", "--batch-size=1", "--held-out=1", "--checkpoint-every=3"]
LONG = [sys.executable, PROGRAM, *SMALL, "--steps=24"]


def call(*arguments: object) -> int:
    """`denoise.py` in this process; the exit code."""
    return exit_code(partial(main, denoise.PROGRAM), arguments)


def wait_for_rows(folder: Path, rows: int, process: subprocess.Popen) -> None:
    """Until the run has done that many steps."""
    deadline = time.monotonic() + 60
    while not (folder / "metrics.csv").exists() or len(read_metrics(folder / "metrics.csv")) < rows:
        assert process.poll() is None, "it ended before it was to be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    runs = tmp_path_factory.mktemp("runs")
    subprocess.run([*LONG, "--runs", runs, "--name", "whole"], env=ENVIRONMENT, check=True, capture_output=True)
    return runs / "whole"


def test_help_explains_every_option_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-X", "importtime", PROGRAM, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)  # which would take seconds
    for field in dataclasses.fields(Settings):
        assert "--" + field.name.replace("_", "-") in done.stdout
    actions = make_parser(denoise.PROGRAM)._actions
    assert all(action.help for action in actions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stepz", "3"], "--stepz"),
        (["--steps", "many"], "--steps"),
        (["--steps", "0"], "0 is not at least 1"),
        (["--ema", "1"], "1 is not at least 0 and below 1"),
        (["--noise", "0"], "0 is not above 0"),
        (["--casp-version", "6"], "--casp-version"),
        (["--mixed-precision", "fp64"], "--mixed-precision"),
        (["--step", "3"], "--step"),
        (["--resume", "--lr", "1"], "leave out --lr"),
        (["--resume", "--steps", "2000", "--lr", "0.006"], "leave out --lr"),  # also if it is the default
        (["--data", "none.pkl"], "cannot read none.pkl"),
        (["--resume", "never"], "there is no checkpoint"),
        (["--resume"], "there is no run"),
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


def test_resuming_something_else_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    save_checkpoint(tmp_path / "other" / "checkpoint.pt", {"step": 3, "about": {"colour": "blue"}})
    assert call("--runs", tmp_path, "--resume") == 2
    error = capsys.readouterr().err
    assert "not of a run of this version" in error
    assert error.count("\n") == 1


def test_missing_package_gets_one_line() -> None:
    lines = (
        "import sys, denoise",
        "from equiformer_pytorch.cli.program import main",
        "sys.modules['accelerate'] = None",
        "sys.exit(main(denoise.PROGRAM, []))",
    )
    code = "; ".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROGRAM.parent)
    assert done.returncode == 2
    assert done.stderr == 'denoise.py: the package accelerate is missing: pip install -e ".[examples]"\n'


def test_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--runs", tmp_path, *SMALL, "--steps", 4, "--validate-every", 2]
    assert call(*arguments) == 0
    folder = tmp_path / "denoise"
    printed = capsys.readouterr().out
    assert "nothing done                              1.000" in printed
    assert "linear" in printed
    assert "Equiformer" in printed
    assert "N-CA-C / °" in printed
    assert (folder / "evaluation.txt").read_text().strip() in printed
    assert [row["step"] for row in metrics_of(folder) if row["valid"]] == ["2", "4"]
    for name in ("loss.png", "backbone.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.glob("*.pdb")) == [f"3a4rA-{n}.pdb" for n in ("after", "before", "true")]

    assert call(*arguments, "--name", "denoise") == 2  # taken
    assert "exists already" in capsys.readouterr().err
    assert call(*arguments) == 0  # finds a name of its own
    assert sorted(path.name for path in tmp_path.iterdir()) == ["denoise", "denoise-2"]
    assert metrics_of(tmp_path / "denoise-2") == metrics_of(folder)


def test_mixed_precision_and_accumulation(tmp_path: Path) -> None:
    assert call("--runs", tmp_path, *SMALL, "--steps=3", "--mixed-precision=bf16", "--accumulate=2") == 0
    assert [row["step"] for row in metrics_of(tmp_path / "denoise")] == ["1", "2", "3"]


def test_out_of_time_then_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--runs", tmp_path, *SMALL, "--steps", 3]
    assert call(*arguments, "--name", "whole") == 0
    assert call(*arguments, "--name", "parts", "--max-minutes", 1e-9) == 0
    assert "time is up at step 1 of 3; --resume parts goes on" in capsys.readouterr().out
    assert call("--runs", tmp_path, "--resume") == 0
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_resumed_for_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of one step that becomes a run of three, stopped again on the way, is what such a run would have been."""
    arguments = ["--runs", tmp_path, *SMALL]
    assert call(*arguments, "--name", "whole", "--steps", 3) == 0
    assert call(*arguments, "--name", "parts", "--steps", 1) == 0
    assert call("--runs", tmp_path, "--resume", "parts", "--steps", 3, "--max-minutes", 1e-9) == 0
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["about"]["steps"] == 3
    assert call("--runs", tmp_path, "--resume", "parts", "--steps", 1) == 2
    assert "parts has done, got 1" in capsys.readouterr().err
    assert call("--runs", tmp_path, "--resume", "parts") == 0
    whole, parts = (metrics_of(tmp_path / name) for name in ("whole", "parts"))
    assert len(parts) == 3
    assert [{**row, "valid": ""} for row in parts] == [{**row, "valid": ""} for row in whole]
    default = Settings.__dataclass_fields__["steps"].default  # is not taken for none
    assert call("--runs", tmp_path, "--resume", "parts", "--steps", default, "--max-minutes", 1e-9) == 0
    assert f"time is up at step 4 of {default}" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.xdist_group("denoise")
@pytest.mark.slow
def test_stopped_and_resumed(tmp_path: Path, undisturbed: Path, number: signal.Signals) -> None:
    folder = tmp_path / "parts"
    begin = [*LONG, "--runs", tmp_path, "--name", "parts"]
    process = subprocess.Popen(begin, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for_rows(folder, 5, process)
    process.send_signal(number)
    error = process.communicate()[1]
    stopped_at = len(metrics_of(folder))
    assert 5 <= stopped_at < 24
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert error.splitlines()[-1] == "denoise.py: stopped by SIGINT; --resume goes on"
        assert load_checkpoint(folder / "checkpoint.pt")["step"] == stopped_at
    resume = [sys.executable, PROGRAM, "--runs", tmp_path, "--resume", "parts"]
    subprocess.run(resume, env=ENVIRONMENT, check=True, capture_output=True)
    assert len(metrics_of(undisturbed)) == 24
    assert metrics_of(folder) == metrics_of(undisturbed)
    assert (folder / "evaluation.txt").read_text() == (undisturbed / "evaluation.txt").read_text()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    program = [PROGRAM, "--runs", str(tmp_path), *SMALL, "--steps", "3"]
    done = subprocess.run([*launch, *program], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    assert done.stdout.count("nothing done") == 1
    assert load_checkpoint(tmp_path / "denoise" / "checkpoint.pt")["processes"] == 2
    assert call("--runs", tmp_path, *SMALL, "--steps", 3, "--accumulate", 2, "--name", "one") == 0
    rows = [[float(row["train"]) for row in metrics_of(tmp_path / name)] for name in ("denoise", "one")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_a_run_of_an_older_version_goes_on_as_it_was(tmp_path: Path) -> None:
    """Runs of 1.3 do not say that they have AdamW, one network that starts from the noised points, and know all
    residues; and its weights have no other names."""
    small = [*SMALL, "--runs", tmp_path, "--optimizer=adamw", "--networks=1", "--start-reach=0", "--hidden=0"]
    assert call(*small, "--steps=6", "--name", "whole") == 0
    assert call(*small, "--steps=6", "--name", "old", "--max-minutes=1e-6") == 0
    path = tmp_path / "old" / "checkpoint.pt"
    old = load_checkpoint(path)
    assert {name.partition(".")[0] for name in old["model"]} == {"net"}
    for name in ("optimizer", "networks", "start_reach", "hidden"):
        del old["about"][name]
    save_checkpoint(path, old)
    assert call("--runs", tmp_path, "--resume", "old") == 0
    assert metrics_of(tmp_path / "old") == metrics_of(tmp_path / "whole")
