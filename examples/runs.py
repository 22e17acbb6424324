"""Runs of the programs: a folder each, begun or resumed, with accelerate."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from equiformer_pytorch.training import CheckpointError, TrainSettings, load_checkpoint
from examples.options import TrainingOptions

CHECKPOINT = "checkpoint.pt"

Settings = TypeVar("Settings", bound=TrainingOptions)
Run = Callable[[Settings, Path, dict[str, Any] | None, Accelerator, TrainSettings], signal.Signals | None]
"""What a program does: settings, folder, checkpoint to go on from, accelerator, settings of the loop."""


class RunError(ValueError):
    """The run that was asked for cannot be made or found."""


SETUP_ERRORS = (RunError, CheckpointError, OSError)


def new_folder(runs: Path, name: str | None, stem: str) -> Path:
    """A folder that is not there yet: of this name, or STEM, STEM-2, …"""
    if name is not None:
        if (runs / name).exists():
            raise RunError(f"{runs / name} exists already: choose another --name, or --resume {name}")
        return runs / name
    number = 1
    while (folder := runs / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


def old_folder(runs: Path, name: str | None) -> Path:
    """The folder of this run, or of the one with the latest checkpoint."""
    if name is not None:
        return runs / name
    checkpoints = sorted(runs.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise RunError(f"there is no run in {runs} to resume")
    return checkpoints[-1].parent


def start(
    run: Run[Settings], settings: Settings, runs: Path, name: str | None, stem: str, max_minutes: float
) -> signal.Signals | None:
    """A new run. Returns the signal that stopped it, if one did."""
    accelerator = _accelerator(settings)
    folder = [new_folder(runs, name, stem) if accelerator.is_main_process else runs]
    broadcast_object_list(folder)  # the first process chooses
    return run(settings, folder[0], None, accelerator, _train_settings(settings, max_minutes))


def resume(
    run: Run[Settings], kind: type[Settings], runs: Path, name: str | None, max_minutes: float
) -> signal.Signals | None:
    """An old run, from its last checkpoint. Returns the signal that stopped it, if one did."""
    folder = old_folder(runs, name)
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    try:
        settings = kind(**checkpoint["about"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CHECKPOINT} is not of a run of this version") from error
    return run(settings, folder, checkpoint, _accelerator(settings), _train_settings(settings, max_minutes))


def samples_needed(settings: TrainingOptions, accelerator: Accelerator) -> int:
    """By a whole run, in all processes."""
    return settings.steps * settings.batch_size * settings.accumulate * accelerator.num_processes


def _accelerator(settings: TrainingOptions) -> Accelerator:
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # so that several processes without a GPU find each other, by gloo
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.accumulate,
    )


def _train_settings(settings: TrainingOptions, max_minutes: float) -> TrainSettings:
    given = asdict(settings)
    own = [name for name in TrainSettings.__dataclass_fields__ if name in given]
    return TrainSettings(**{name: given[name] for name in own}, max_seconds=60 * max_minutes)
