"""One run of `denoise.py`: data, model, training, evaluation, report."""

from __future__ import annotations

import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from equiformer_pytorch.training import SampleStream, TrainSettings, train
from examples.denoising import data, evaluate, report
from examples.denoising.model import BackboneDenoiser, denoising_loss
from examples.denoising.settings import Settings
from examples.runs import samples_needed

SETUP_ERRORS = (data.DataError,)


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


def run(
    settings: Settings,
    folder: Path,
    checkpoint: dict[str, Any] | None,
    accelerator: Accelerator,
    loop: TrainSettings,
) -> signal.Signals | None:
    """Trains, and reports unless it was stopped. Returns the signal that stopped it, if one did."""
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
            length=samples_needed(settings, accelerator),
            seed=settings.seed,
        ),
        optimizer=torch.optim.AdamW(model.parameters(), lr=settings.lr),
        settings=loop,
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
