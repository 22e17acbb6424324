"""Runs of the programs: a folder each, begun or resumed, with accelerate."""

from __future__ import annotations

import gc
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.nn  # before there is a process group, which the defaults of its functions would keep for good
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from equiformer_pytorch.training.checkpoint import CheckpointError, load_checkpoint
from equiformer_pytorch.training.loop import TrainSettings, train
from equiformer_pytorch.training.options import TrainingOptions
from equiformer_pytorch.training.samples import SampleStream

CHECKPOINT = "checkpoint.pt"

Settings = TypeVar("Settings", bound=TrainingOptions)


@dataclass(frozen=True)
class Job:
    """What a program trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[nn.Module, Any], Tensor]
    """Of the model and a batch, see :func:`train`."""
    items: Sequence[Any]
    """To train on."""
    draw: Callable[[Any, torch.Generator], Any]
    """Makes a sample of an item, see :class:`SampleStream`."""
    validate: Callable[[nn.Module], float]
    """A figure of the averaged model, the smaller the better."""
    report: Callable[[nn.Module], None]
    """Leaves behind what people want of the averaged model."""
    data: str
    """What it is trained on, in words."""
    collate: Callable[[list[Any]], Any] | None = None
    """Makes a batch, or the pieces of one, see :func:`train`."""
    finish: Callable[[], None] | None = None
    """What all processes do when the training is over, before the first one reports."""


Prepare = Callable[[Settings, Path, bool, Accelerator], Job]
"""What a program has to do: settings, folder (not there yet), whether a run is resumed, accelerator -> job."""


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
    prepare: Prepare[Settings], settings: Settings, runs: Path, name: str | None, stem: str, max_minutes: float | None
) -> signal.Signals | None:
    """A new run. Returns the signal that stopped it, if one did."""
    with _accelerated(settings, runs) as accelerator:
        folder = [new_folder(runs, name, stem) if accelerator.is_main_process else runs]
        broadcast_object_list(folder)  # the first process chooses
        return _carry_out(prepare, settings, folder[0], None, accelerator, max_minutes)


def resume(
    prepare: Prepare[Settings],
    kind: type[Settings],
    runs: Path,
    name: str | None,
    max_minutes: float | None,
    steps: int | None = None,
) -> signal.Signals | None:
    """An old run, from its last checkpoint. Returns the signal that stopped it, if one did.

    With `steps` it has as many from here on, more or fewer than before: the samples go on as they would have, and the
    learning rate is that of a run of so many steps, so rises where the run becomes longer. The run keeps them.

    Raises:
        RunError: if there is no such run, or it has done more than `steps` already.
        CheckpointError: if the checkpoint is damaged, or of something else.
    """
    folder = old_folder(runs, name)
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    try:
        settings = kind(**{**kind.UNSAID, **checkpoint["about"]})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CHECKPOINT} is not of a run of this version") from error
    if steps is not None:
        if steps < checkpoint["step"]:
            raise RunError(f"--steps must be at least the {checkpoint['step']} that {folder} has done, got {steps}")
        settings = replace(settings, steps=steps)
    with _accelerated(settings, runs) as accelerator:
        return _carry_out(prepare, settings, folder, checkpoint, accelerator, max_minutes)


def _carry_out(
    prepare: Prepare[Settings],
    settings: Settings,
    folder: Path,
    checkpoint: dict[str, Any] | None,
    accelerator: Accelerator,
    max_minutes: float | None,
) -> signal.Signals | None:
    """Trains, and reports unless it was stopped. Returns the signal that stopped it, if one did."""
    job = prepare(settings, folder, checkpoint is not None, accelerator)
    processes = accelerator.num_processes
    accelerator.print(
        f"{folder}: {job.data}; {sum(weight.numel() for weight in job.model.parameters()):,} weights on "
        f"{accelerator.device}, {processes} process(es)"
    )
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    _start_trackers(accelerator, settings, folder)
    samples = settings.steps * settings.batch_size * settings.accumulate * processes
    outcome = train(
        model=job.model,
        loss_function=job.loss,
        samples=SampleStream(job.items, job.draw, samples, settings.seed),
        optimizer=job.optimizer,
        settings=_train_settings(settings, max_minutes),
        accelerator=accelerator,
        folder=folder,
        about=asdict(settings),
        validate=job.validate,
        resume=checkpoint,
        collate_fn=job.collate,
        workers=settings.workers,
    )
    if outcome.stopped_by is None and job.finish is not None:
        job.finish()
    if outcome.stopped_by is None and accelerator.is_main_process:
        if outcome.step < settings.steps:
            print(f"time is up at step {outcome.step} of {settings.steps}; --resume {folder.name} goes on")
        job.report(outcome.ema)
    return outcome.stopped_by


@contextmanager
def _accelerated(settings: TrainingOptions, runs: Path) -> Iterator[Accelerator]:
    """With an accelerator whose trackers and process group end with it, however that comes about.

    A process group ends when nothing refers to it: while it is there its threads run, and one that frees a tensor while
    the interpreter is taken down aborts the process.
    """
    accelerator = _accelerator(settings, runs)
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        accelerator.end_training()
        gc.collect()


def _accelerator(settings: TrainingOptions, runs: Path) -> Accelerator:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`log_with=")  # what is missing is an error here
            accelerator = Accelerator(
                cpu=not torch.cuda.is_available(),  # so that several processes without a GPU find each other, by gloo
                mixed_precision=settings.mixed_precision,
                gradient_accumulation_steps=settings.accumulate,
                log_with=list(settings.log_with) or None,
                project_dir=runs,
            )
    except ValueError as error:
        raise RunError(f"--log-with: {error}") from error
    missing = set(settings.log_with) - {"all", *map(str, accelerator.log_with)}
    if missing:
        raise RunError(f"--log-with {' '.join(sorted(missing))}: its package is missing")
    return accelerator


def _start_trackers(accelerator: Accelerator, settings: TrainingOptions, folder: Path) -> None:
    """They are told what the run is, and keep what they write in its folder."""
    if not accelerator.log_with:
        return
    accelerator.project_configuration.logging_dir = str(folder)
    config = {name: str(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    config = {name: value for name, value in config.items() if value is not None}
    accelerator.init_trackers("equiformer", config, {"wandb": {"name": folder.name, "dir": str(folder)}})


def _train_settings(settings: TrainingOptions, max_minutes: float | None) -> TrainSettings:
    given = asdict(settings)
    own = [name for name in TrainSettings.__dataclass_fields__ if name in given]
    seconds = math.inf if max_minutes is None else 60 * max_minutes
    return TrainSettings(**{name: given[name] for name in own}, max_seconds=seconds)
