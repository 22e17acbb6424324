"""The loop: accumulation, clipping, warm-up and cosine, EMA, checkpoints, exact resume.

Exact resume rests on one rule: what happens in a step is a function of the weights, the optimizer's state, and (seed,
step, process). The learning rate is a function of the step, the samples of their number, and the global generator is
seeded anew at every step. So a checkpoint needs no generator states, and a run that was killed and resumed ends with
the bits of one that was not.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from equiformer_pytorch.training.checkpoint import CheckpointError, save_checkpoint
from equiformer_pytorch.training.metrics import MetricsFile
from equiformer_pytorch.training.samples import seed_for

Batch = TypeVar("Batch")
COLUMNS = ("step", "train", "valid", "lr", "grad_norm", "seconds")


@dataclass(frozen=True)
class TrainSettings:
    """`batch_size` is per process and micro-batch: a step sees batch_size x accumulate x processes samples."""

    steps: int
    """Of the whole run; the learning rate reaches zero with the last."""
    batch_size: int
    """Samples of a process in one forward and backward pass."""
    accumulate: int
    """Such passes per step."""
    warmup: int
    """Steps over which the learning rate rises to its full value; a cosine follows."""
    clip: float
    """Largest norm of the gradient of all parameters together."""
    ema: float
    """Decay per step of the averaged weights; smaller in the first steps, (1 + n) / (10 + n) after n."""
    seed: int
    """Of everything random."""
    validate_every: int
    """Steps between two validations."""
    checkpoint_every: int
    """Steps between two checkpoints."""
    max_seconds: float = math.inf
    """After so long in this process the run stops, with a checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    ema: nn.Module
    """The averaged model."""
    step: int
    """Steps done, those before a resumption included."""
    stopped_by: signal.Signals | None
    """The signal that stopped it, if one did."""


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the full rate: rises over `warmup` steps, then falls to zero along a cosine."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def ramped_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """For `AveragedModel`: an exponential average whose decay (1 + n) / (10 + n) rises to `decay` with the steps n."""

    @torch.no_grad()
    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for mean, weight in zip(averaged, current, strict=True):
            mean.lerp_(weight, share)

    return average


class StopSignals:
    """Within it, the first SIGINT or SIGTERM is noted in `received`; a second one acts as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()


class Pieces(list[Any]):
    """A batch that is computed in pieces, one after the other, each with its own backward pass."""


def _leave_interrupts_alone(worker: int) -> None:
    """Of a process that loads samples: the one that trains says when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train(
    model: nn.Module,
    loss_function: Callable[[nn.Module, Batch], Tensor],
    samples: Dataset[Any],
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    accelerator: Accelerator,
    folder: Path,
    about: dict[str, Any],
    validate: Callable[[nn.Module], float],
    resume: dict[str, Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    workers: int = 0,
) -> Outcome:
    """Trains `model` in place and keeps `checkpoint.pt` and `metrics.csv` in `folder`.

    Args:
        model: initialised alike in all processes.
        loss_function: of the model and a collated batch; the mean over the samples of the batch. Of a batch in
            pieces (``equiformer_pytorch.training.loop.Pieces``, a list) it is called for each, and the sum is the loss.
        samples: a map-style dataset of at least steps x samples per step, e.g. a :class:`SampleStream`.
        optimizer: of the model's parameters, with the full learning rate.
        settings: see :class:`TrainSettings`.
        accelerator: with `gradient_accumulation_steps=settings.accumulate`.
        folder: exists already.
        about: what a program must know to build the same model again; stored in the checkpoint.
        validate: a figure of the averaged model, computed in the main process every `validate_every` steps.
        resume: a checkpoint of this run, by :func:`load_checkpoint`.
        collate_fn: makes a batch of a list of samples, e.g. of graphs, or its pieces; by default they are stacked.
        workers: further processes that load samples and collate them.

    It stops early, with a checkpoint, after `settings.max_seconds` or on SIGINT or SIGTERM; the schedule is a function
    of the step alone, so resuming goes on as if nothing had been. Resumed with other `settings.steps`, a run goes on at
    the learning rate of a run of so many.

    Returns:
        How it ended, with the averaged model.

    Raises:
        CheckpointError: `resume` is of another model, or of another number of processes.
        FloatingPointError: the loss is no longer finite, or the weights, of which no checkpoint is then kept.
    """
    step, seconds_before = (0, 0.0) if resume is None else (resume["step"], resume["seconds"])
    processes = accelerator.num_processes
    base_rates = [group["lr"] for group in optimizer.param_groups]
    ema = AveragedModel(model, multi_avg_fn=ramped_average(settings.ema))
    ema.to(accelerator.device).eval()
    if resume is not None:
        if resume["processes"] != processes:
            raise CheckpointError(
                f"this run has {resume['processes']} processes, not {processes}: resume it with those"
            )
        try:
            model.load_state_dict(resume["model"])
            ema.load_state_dict(resume["ema"])
            optimizer.load_state_dict(resume["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint in {folder} was made by another model") from error

    per_step = settings.batch_size * settings.accumulate * processes
    remaining = Subset(samples, range(step * per_step, settings.steps * per_step))
    loader = DataLoader(
        remaining,
        settings.batch_size,
        collate_fn=collate_fn,
        num_workers=workers,
        worker_init_fn=_leave_interrupts_alone if workers else None,
    )
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    wrapped.train()

    def save() -> None:
        # A loss can be the last finite one: what can be gone on with is not written over.
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise FloatingPointError(f"weights became infinite or NaN by step {step}: try a smaller learning rate")
        if accelerator.is_main_process:
            content = {
                "step": step,
                "seconds": seconds_before + time.monotonic() - start,
                "processes": processes,
                "model": accelerator.unwrap_model(wrapped).state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "about": about,
            }
            save_checkpoint(folder / "checkpoint.pt", content)

    def prepare_step() -> None:
        share = learning_rate(step, settings.steps, settings.warmup)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * share
        torch.manual_seed(seed_for("step", settings.seed, step, accelerator.process_index))

    start = time.monotonic()
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        bar = stack.enter_context(
            tqdm(
                total=settings.steps,
                initial=step,
                unit="step",
                mininterval=0.2 if sys.stderr.isatty() else 10,  # seconds; a log file wants few lines
                disable=not accelerator.is_main_process,
            )
        )
        metrics = None
        if accelerator.is_main_process:
            metrics = MetricsFile(folder / "metrics.csv", COLUMNS, step)
            stack.callback(metrics.close)
        if resume is None or resume["about"] != about:
            save()  # what the run is to be, also if it is killed before the next checkpoint
        losses: list[Tensor] = []
        micro_batches = 0
        for batch in loader:
            if not losses:
                prepare_step()
            with accelerator.accumulate(wrapped):
                pieces = batch if isinstance(batch, Pieces) else [batch]
                for place, piece in enumerate(pieces):
                    # Gradients go to the other processes with the last piece.
                    last = place == len(pieces) - 1
                    with nullcontext() if last else accelerator.no_sync(wrapped):
                        loss = loss_function(wrapped, piece)
                        losses.append(loss.detach())
                        accelerator.backward(loss)
                micro_batches += 1
                whole = accelerator.sync_gradients
                grad_norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip) if whole else None
                optimizer.step()
                optimizer.zero_grad()
            if grad_norm is None:
                continue  # more micro-batches belong to this step

            ema.update_parameters(accelerator.unwrap_model(wrapped))
            step += 1
            reduced: Any = accelerator.reduce(torch.stack(losses).sum() / micro_batches, "mean")
            mean_loss = float(reduced)
            losses.clear()
            micro_batches = 0
            if not math.isfinite(mean_loss):
                raise FloatingPointError(f"the loss became {mean_loss} at step {step}: try a smaller learning rate")
            if metrics is not None:
                row = {
                    "step": step,
                    "train": mean_loss,
                    "lr": optimizer.param_groups[0]["lr"],
                    "grad_norm": float(grad_norm),
                    "seconds": seconds_before + time.monotonic() - start,
                }
                if step % settings.validate_every == 0 or step == settings.steps:
                    row["valid"] = validate(ema)
                    bar.set_description(f"valid {row['valid']:.3f}", refresh=False)
                metrics.write(**row)
                accelerator.log(row, step)
            bar.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
            bar.update()

            if signals.received or time.monotonic() - start > settings.max_seconds:
                accelerator.set_trigger()
            stopping = accelerator.check_trigger()
            if stopping or step % settings.checkpoint_every == 0 or step == settings.steps:
                save()
            if stopping:
                break
        return Outcome(ema.module, step, signals.received)
