"""What a training run of the generator of backbones is, and the file that it leaves."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn

from equiformer_pytorch.training.optimizers import optimizer_for
from equiformer_pytorch.training.runs import Job
from equiformer_pytorch.training.samples import generator_for
from examples.backbones import learning, saved, sources
from examples.backbones.chains import SHIPPED, Chains
from examples.backbones.network import BackboneNetwork, NetworkArguments
from examples.backbones.settings import Settings
from examples.backbones.split import SplitError
from examples.backbones.structures import StructureError

SETUP_ERRORS = (StructureError, SplitError)
LEVELS = (0.3, 1.0, 3.0, 10.0)
"""Å, the noise levels at which the validation chains are estimated."""


def load_chains(settings: Settings) -> Chains:
    """The compact ones of what the settings name.

    Raises:
        StructureError, SplitError: if it cannot be had, or none of the chains to train on or to validate is compact.
    """
    if settings.casp_version is not None:
        chains = sources.download(settings.casp_version, settings.thinning, Path(settings.download_folder))
    else:
        chains = sources.load(Path(settings.data) if settings.data else SHIPPED)
    compact = chains.compact()
    if not (compact.train and compact.valid):
        raise StructureError(
            f"of {len(chains.train)} chains to train on {len(compact.train)} are compact, of {len(chains.valid)} to "
            f"validate {len(compact.valid)}: at least one of each is wanted"
        )
    return compact


def make_network(settings: Settings) -> BackboneNetwork:
    """With weights that depend on the seed only."""
    torch.manual_seed(settings.seed)
    arguments = {field.name: getattr(settings, field.name) for field in fields(NetworkArguments)}
    return BackboneNetwork(NetworkArguments(**arguments))


def validation_batches(chains: Chains, longest: int) -> list[dict[str, torch.Tensor]]:
    """The same noise each time: the first residues of each validation chain, at each level."""
    batches = []
    for place, chain in enumerate(chains.valid):
        (item,) = learning.items_of([chain.residues(0, min(len(chain), longest))], longest)
        samples = [
            learning.draw_whole(item, generator_for("valid", place, number), level)
            for number, level in enumerate(LEVELS)
        ]
        batches.append(learning.collate(samples))
    return batches


@torch.no_grad()
def validate(model: nn.Module, batches: list[dict[str, torch.Tensor]]) -> float:
    """Mean error of second estimates of the frames of residues; 2 for what the Gaussian chain alone gives."""
    device = next(model.parameters()).device
    torch.manual_seed(0)  # of the random edges
    found = [
        learning.errors_of(model, {name: value.to(device) for name, value in batch.items()}, again=True)
        for batch in batches
    ]
    return float(torch.cat([errors.position + errors.rotation for errors in found]).mean())


def prepare(settings: Settings, folder: Path, resumed: bool, accelerator: Accelerator) -> Job:
    """Data, model and what is done with them."""
    with accelerator.main_process_first():  # the others find what it downloaded
        chains = load_chains(settings)
    network = make_network(settings)
    network.prior.fit(learning.mean_squares(chains.train))
    batches = validation_batches(chains, settings.crop)
    shares = learning.Shares(settings.motifs, settings.structures)

    def leave(averaged: nn.Module) -> None:
        saved.save(cast(BackboneNetwork, averaged), folder / "model.pt")
        print(f"{folder / 'model.pt'}: sample with `python -m examples.generate_backbones sample --model {folder}`")

    return Job(
        model=network,
        optimizer=optimizer_for(network, settings.optimizer, settings.lr, betas=(0.9, 0.99), weight_decay=0.01),
        loss=learning.denoising_loss,
        items=learning.items_of(chains.train, settings.crop),
        draw=partial(learning.draw_crop, crop=settings.crop, shares=shares),
        validate=partial(validate, batches=batches),
        report=leave,
        data=f"{len(chains.train)} chains to train on, {len(chains.valid)} to validate",
        collate=learning.collate,
    )
