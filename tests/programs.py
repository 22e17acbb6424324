"""What tests of programs share: a call in this process, and the metrics that a run leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from equiformer_pytorch.training.metrics import read_metrics

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def exit_code(program: Callable[[Sequence[str]], int], arguments: Sequence[object]) -> int:
    """Of a program's `main`, which may also leave by `SystemExit`."""
    try:
        return program([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def metrics_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a run, but for the time that they took."""
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in read_metrics(folder / "metrics.csv")
    ]
