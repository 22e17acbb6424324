"""What a run of `denoise.py` trains, and on what."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from equiformer_pytorch.training.optimizers import optimizer_for
from equiformer_pytorch.training.runs import Job
from examples.denoising import data, evaluate, report
from examples.denoising.model import BackboneDenoiser, denoising_loss
from examples.denoising.settings import Settings

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
        networks=settings.networks,
        start_reach=settings.start_reach,
    )


def prepare(settings: Settings, folder: Path, resumed: bool, accelerator: Accelerator) -> Job:
    """Data, model and what is done with them."""
    with accelerator.main_process_first():  # the others find what it downloaded
        splits = load_data(settings)
    model = make_model(settings)
    some = data.some_chains(splits.train, evaluate.LINEAR_CHAINS)
    if model.start is not None:
        model.start.fit(some, settings.noise)
    valid, test = (data.some_chains(proteins, settings.held_out) for proteins in (splits.valid, splits.test))

    def validate(averaged: nn.Module) -> float:
        return evaluate.score(evaluate.ModelPredictor(averaged), valid, settings.noise).variance_left

    def leave(averaged: nn.Module) -> None:
        linear = evaluate.LinearPredictor(some, settings.noise)
        report.write_report(folder, evaluate.ModelPredictor(averaged), linear, test, settings.noise)

    return Job(
        model=model,
        optimizer=optimizer_for(model, settings.optimizer, settings.lr, weight_decay=0.01),
        loss=denoising_loss,
        items=splits.train,
        draw=partial(data.draw_crop, length=settings.crop, noise=settings.noise, hidden=settings.hidden),
        validate=validate,
        report=leave,
        data=f"{len(splits.train)} chains to train on, {len(valid)} to validate, {len(test)} to test",
    )
