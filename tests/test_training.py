"""The training loop: schedule, averages, samples, files, and a resume that is exact after any kind of stop."""

from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="needs the extra examples")

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from equiformer_pytorch.training import (
    CheckpointError,
    MetricsFile,
    SampleStream,
    load_checkpoint,
    save_checkpoint,
)
from equiformer_pytorch.training.loop import learning_rate, ramped_average
from equiformer_pytorch.training.metrics import read_metrics
from equiformer_pytorch.training.samples import generator_for
from tests import toy_training as toy

PROGRAM = Path(toy.__file__)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1]), "OMP_NUM_THREADS": "1"}


def assert_same(left: Any, right: Any) -> None:
    """Equal bit by bit, through dicts and lists."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


def assert_same_run(left: Path, right: Path) -> None:
    """Same checkpoint and metrics, but for the time they took."""
    runs = [load_checkpoint(folder / "checkpoint.pt") for folder in (left, right)]
    rows = [read_metrics(folder / "metrics.csv") for folder in (left, right)]
    for timed in (*runs, *rows[0], *rows[1]):
        del timed["seconds"]
    assert_same(*runs)
    assert rows[0] == rows[1]


# ---- schedule and averages


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)


def test_learning_rate_of_a_run_shorter_than_its_warmup() -> None:
    assert all(0 < learning_rate(step, 5, 10) < 1 for step in range(5))


def test_average_starts_at_the_weights_and_slows_down() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged: Any = AveragedModel(model, multi_avg_fn=ramped_average(0.9))
    values = []
    for weight in (1.0, 2.0, 2.0):
        nn.init.constant_(model.weight, weight)
        averaged.update_parameters(model)
        values.append(averaged.module.weight.item())
    # the decay of the second update is (1 + 1) / (10 + 1), of the third (1 + 2) / (10 + 2)
    assert values == pytest.approx([1, 2 - 2 / 11, 2 - 2 / 11 * 3 / 12])


# ---- samples


def test_generators_are_functions_of_their_key() -> None:
    keys = [("a",), ("a", 0), ("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("a", 10), ("b", 0)]
    draws = [torch.rand(4, generator=generator_for(*key)) for key in keys]
    assert torch.equal(draws[0], torch.rand(4, generator=generator_for("a")))
    assert len({tuple(drawn.tolist()) for drawn in draws}) == len(keys)


def test_stream_visits_every_item_each_round_in_a_new_order() -> None:
    stream = SampleStream(range(20), lambda item, generator: item, length=60, seed=3)
    rounds = [[stream[20 * turn + place] for place in range(20)] for turn in range(3)]
    assert all(sorted(order) == list(range(20)) for order in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert [stream[k] for k in range(20)] == rounds[0]  # going back gives the same again


def test_stream_ends_and_needs_items() -> None:
    stream = SampleStream(range(2), lambda item, generator: item, length=5, seed=0)
    whole: Any = stream  # no iterator of its own: Python asks for items until there is none
    assert len(list(whole)) == len(stream) == 5
    with pytest.raises(ValueError, match="at least one item"):
        SampleStream([], lambda item, generator: item, length=5, seed=0)


# ---- files


def test_checkpoint_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"step": lambda: None})
    assert load_checkpoint(path) == {"step": 1}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"path": Path("x")})])
def test_unreadable_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_metrics_drop_what_the_checkpoint_does_not_cover(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, ("step", "loss", "valid"), 0)
    for step in (1, 2, 3):
        metrics.write(step=step, loss=1 / step)
    metrics.close()
    with path.open("a") as file:
        file.write("4,0.2")  # cut short by a kill
    assert [row["step"] for row in read_metrics(path)] == ["1", "2", "3"]
    MetricsFile(path, ("step", "loss", "valid"), 2).close()
    assert read_metrics(path) == [
        {"step": "1", "loss": "1", "valid": ""},
        {"step": "2", "loss": "0.5", "valid": ""},
    ]


# ---- the loop


def test_training_learns_and_keeps_its_books(tmp_path: Path) -> None:
    outcome = toy.run(tmp_path, steps=150, dropout=0.0)
    rows = read_metrics(tmp_path / "metrics.csv")
    losses = [float(row["train"]) for row in rows]
    assert outcome.step == 150
    assert outcome.stopped_by is None
    assert [int(row["step"]) for row in rows] == list(range(1, 151))
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert [int(row["step"]) for row in rows if row["valid"]] == [*range(4, 149, 4), 150]


def test_accumulation_equals_a_larger_batch(tmp_path: Path) -> None:
    toy.run(tmp_path / "large", batch_size=4, dropout=0.0)
    toy.run(tmp_path / "small", batch_size=2, accumulate=2, dropout=0.0)
    large, small = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("large", "small"))
    for name in large["model"]:
        torch.testing.assert_close(large["model"][name], small["model"][name], atol=1e-5, rtol=1e-5)


def test_samples_that_do_not_stack(tmp_path: Path) -> None:
    """With a `collate_fn`; a stopped run still ends where a whole one does."""
    toy.run(tmp_path / "whole", ragged=True, batch_size=4)
    stopped = toy.run(tmp_path / "parts", ragged=True, batch_size=4, stop_at=7, stop_signal=signal.SIGTERM)
    assert stopped.step == 7
    toy.run(tmp_path / "parts", ragged=True, batch_size=4, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_gradient_is_clipped(tmp_path: Path) -> None:
    """Clipped to almost nothing, plain SGD would not move; AdamW is scale-free, so look at the moments it keeps."""
    toy.run(tmp_path, clip=1e-6, steps=1)
    moments = [state["exp_avg"] for state in load_checkpoint(tmp_path / "checkpoint.pt")["optimizer"]["state"].values()]
    assert torch.cat([moment.flatten() for moment in moments]).norm() <= 0.11 * 1e-6
    assert float(read_metrics(tmp_path / "metrics.csv")[0]["grad_norm"]) > 1e-3


def test_not_finite_loss_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="step"):
        toy.run(tmp_path, lr=math.inf)


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    toy.run(tmp_path, steps=2)
    with pytest.raises(FloatingPointError, match="weights became infinite or NaN by step 3"):
        toy.run(tmp_path, resume=True, lr=math.inf, checkpoint_every=1)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint["step"] == 2
    assert all(weight.isfinite().all() for weight in checkpoint["model"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_and_resumed(tmp_path: Path, number: signal.Signals) -> None:
    toy.run(tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = toy.run(tmp_path / "parts", stop_at=7, stop_signal=number)
    assert stopped.stopped_by is number
    assert stopped.step == 7
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 7
    toy.run(tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_stopped_by_the_clock_at_every_step_and_resumed(tmp_path: Path) -> None:
    toy.run(tmp_path / "whole", accumulate=2)
    outcome = toy.run(tmp_path / "parts", accumulate=2, max_seconds=0)
    while outcome.step < 12:
        outcome = toy.run(tmp_path / "parts", accumulate=2, max_seconds=0, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    toy.run(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes(), (tmp_path / "metrics.csv").read_bytes()
    assert toy.run(tmp_path, resume=True).step == 12
    assert ((tmp_path / "checkpoint.pt").read_bytes(), (tmp_path / "metrics.csv").read_bytes()) == before


def test_a_run_that_becomes_longer(tmp_path: Path) -> None:
    """Stopped while the rate still rises, it goes on as a run that was meant to be so long from the start."""
    for name, steps in (("long", 12), ("short", 6)):
        toy.run(tmp_path / name, steps=steps, stop_at=2, stop_signal=signal.SIGTERM)
        assert toy.run(tmp_path / name, steps=12, resume=True).step == 12
    assert_same_run(tmp_path / "long", tmp_path / "short")


def test_a_finished_run_becomes_longer(tmp_path: Path) -> None:
    toy.run(tmp_path, steps=6)
    with pytest.raises(FloatingPointError):  # before the next checkpoint
        toy.run(tmp_path, steps=12, resume=True, lr=math.inf)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (checkpoint["step"], checkpoint["about"]) == (6, {"steps": 12})
    toy.run(tmp_path, steps=12, resume=True)
    rates = [float(row["lr"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert rates == pytest.approx(
        [0.05 * learning_rate(step, 6 if step < 6 else 12, 2) for step in range(12)], rel=1e-5
    )


def test_resuming_with_another_model_is_an_error(tmp_path: Path) -> None:
    toy.run(tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    checkpoint["model"]["0.weight"] = torch.zeros(3, 3)
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    with pytest.raises(CheckpointError, match="made by another model"):
        toy.run(tmp_path, resume=True)


@pytest.mark.parametrize("stop_at", [1, 8])
@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path, stop_at: int) -> None:
    toy.run(tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "parts", "--stop-at", str(stop_at)],
        env=ENVIRONMENT,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    toy.run(tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_equal_two_micro_batches(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    program = [PROGRAM, tmp_path / "two", "--dropout=0", "--processes=2"]
    done = subprocess.run([*launch, *program], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    toy.run(tmp_path / "one", accumulate=2, dropout=0.0)
    two, one = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("two", "one"))
    assert two["processes"] == 2
    for name in one["model"]:
        torch.testing.assert_close(two["model"][name], one["model"][name], atol=1e-5, rtol=1e-5)
    rows = [[float(row["train"]) for row in read_metrics(tmp_path / name / "metrics.csv")] for name in ("two", "one")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)

    with pytest.raises(CheckpointError, match="2 processes, not 1"):
        toy.run(tmp_path / "two", resume=True, dropout=0.0)
