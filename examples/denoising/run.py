"""One run of `denoise.py`: data, model, training, evaluation, report."""

from __future__ import annotations

import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from equiformer_pytorch.training import CheckpointError, SampleStream, TrainSettings, load_checkpoint, train
from examples.denoising import data, evaluate, report
from examples.denoising.model import BackboneDenoiser, denoising_loss
from examples.denoising.settings import Settings

CHECKPOINT = "checkpoint.pt"


class RunError(ValueError):
    """The run that was asked for cannot be made or found."""


SETUP_ERRORS = (RunError, data.DataError, CheckpointError, OSError)


def new_folder(runs: Path, name: str | None) -> Path:
    """A folder that is not there yet: of this name, or denoise, denoise-2, …"""
    if name is not None:
        if (runs / name).exists():
            raise RunError(f"{runs / name} exists already: choose another --name, or --resume {name}")
        return runs / name
    number = 1
    while (folder := runs / ("denoise" if number == 1 else f"denoise-{number}")).exists():
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


def load_data(settings: Settings) -> data.Splits:
    """From the local file, or by download."""
    if settings.casp_version is None:
        return data.load_file(Path(settings.data))
    return data.download(settings.casp_version, settings.thinning, Path(settings.download_folder))


def make_model(settings: Settings) -> BackboneDenoiser:
    """With weights that depend on the seed only."""
    torch.manual_seed(settings.seed)
    return BackboneDenoiser(
        num_tokens=data.NUM_TOKENS,
        dim=settings.dim,
        depth=settings.depth,
        heads=settings.heads,
        dim_head=settings.dim_head,
        neighbors=settings.neighbors,
        chain_reach=settings.chain_reach,
    )


def start(settings: Settings, runs: Path, name: str | None, max_minutes: float) -> signal.Signals | None:
    """A new run. Returns the signal that stopped it, if one did."""
    accelerator = _accelerator(settings)
    folder = [new_folder(runs, name) if accelerator.is_main_process else runs]
    broadcast_object_list(folder)  # the first process chooses
    return _run(settings, folder[0], None, accelerator, max_minutes)


def resume(runs: Path, name: str | None, max_minutes: float) -> signal.Signals | None:
    """An old run, from its last checkpoint. Returns the signal that stopped it, if one did."""
    folder = old_folder(runs, name)
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    try:
        settings = Settings(**checkpoint["about"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CHECKPOINT} is not of a run of this version") from error
    return _run(settings, folder, checkpoint, _accelerator(settings), max_minutes)


def _accelerator(settings: Settings) -> Accelerator:
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # so that several processes without a GPU find each other, by gloo
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.accumulate,
    )


def _run(
    settings: Settings, folder: Path, checkpoint: dict[str, Any] | None, accelerator: Accelerator, max_minutes: float
) -> signal.Signals | None:
    with accelerator.main_process_first():  # the others find what it downloaded
        splits = load_data(settings)
    model = make_model(settings)
    valid, test = (data.some_chains(proteins, settings.held_out) for proteins in (splits.valid, splits.test))
    accelerator.print(
        f"{folder}: {len(splits.train)} chains to train on, {len(valid)} to validate, {len(test)} to test; "
        f"{sum(weight.numel() for weight in model.parameters()):,} weights on {accelerator.device}, "
        f"{accelerator.num_processes} process(es)"
    )
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)

    def validate(averaged: nn.Module) -> float:
        return evaluate.score(evaluate.ModelPredictor(averaged), valid, settings.noise).variance_left

    outcome = train(
        model=model,
        loss_function=denoising_loss,
        samples=SampleStream(
            splits.train,
            partial(data.draw_crop, length=settings.crop, noise=settings.noise),
            length=settings.steps * settings.batch_size * settings.accumulate * accelerator.num_processes,
            seed=settings.seed,
        ),
        optimizer=torch.optim.AdamW(model.parameters(), lr=settings.lr),
        settings=TrainSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            warmup=settings.warmup,
            clip=settings.clip,
            ema=settings.ema,
            seed=settings.seed,
            validate_every=settings.validate_every,
            checkpoint_every=settings.checkpoint_every,
            max_seconds=60 * max_minutes,
        ),
        accelerator=accelerator,
        folder=folder,
        about=asdict(settings),
        validate=validate,
        resume=checkpoint,
    )
    if outcome.stopped_by is None and accelerator.is_main_process:
        if outcome.step < settings.steps:
            print(f"time is up at step {outcome.step} of {settings.steps}; --resume {folder.name} goes on")
        linear = evaluate.LinearPredictor(data.some_chains(splits.train, evaluate.LINEAR_CHAINS), settings.noise)
        report.write_report(folder, evaluate.ModelPredictor(outcome.ema), linear, test, settings.noise)
    accelerator.end_training()
    return outcome.stopped_by
