"""What a run trains."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from equiformer_pytorch.graph.periodic import radius_graph
from equiformer_pytorch.training.optimizers import optimizer_for
from equiformer_pytorch.training.runs import Job
from examples.qm9 import data, frames, report
from examples.qm9.model import MoleculeProperty, nearest
from examples.qm9.properties import PROPERTIES
from examples.qm9.settings import Settings

SETUP_ERRORS = (data.DataError,)
# Molecules whose errors are found at once.
AT_ONCE = 100
Item = dict[str, Tensor]


def items_of(molecules: data.Molecules, places: Sequence[int], name: str) -> list[Item]:
    """Molecules with a property as `value`: one number, or the candidates (4, 3, 3) of a tensor."""
    values = molecules.values(name)[list(places)]
    if PROPERTIES[name].kind == "tensor":
        values = frames.candidates(values, frames.charge_axes(molecules)[list(places)])
    else:
        values = values[:, 0]
    atoms = [molecules.atoms(place) for place in places]
    return [
        {"atomic_numbers": molecules.numbers[one], "pos": molecules.pos[one].float(), "value": value}
        for one, value in zip(atoms, values, strict=True)
    ]


def collate(items: Sequence[Item], cutoff: float) -> Item:
    """One batch, with its edges."""
    sizes = torch.tensor([len(item["pos"]) for item in items])
    batch = {name: torch.cat([item[name] for item in items]) for name in ("atomic_numbers", "pos")}
    batch["batch"] = torch.arange(len(items)).repeat_interleave(sizes)
    batch["value"] = torch.stack([item["value"] for item in items])
    batch["edge_index"], _ = radius_graph(batch["pos"], cutoff, batch=batch["batch"])
    return batch


def draw(item: Item, generator: torch.Generator) -> Item:
    """A sample is the molecule as it is: the model needs no turned copies."""
    return item


def make_model(settings: Settings) -> MoleculeProperty:
    """With weights that depend on the seed only."""
    torch.manual_seed(settings.seed)
    options = {
        "cutoff": settings.cutoff,
        "dim": settings.dim[0] if len(settings.dim) == 1 else settings.dim,
        "num_degrees": settings.num_degrees,
        "depth": settings.depth,
        "heads": settings.heads,
        "dim_head": settings.dim_head,
        "l2_dist_attention": settings.attention == "l2",
        "radial_basis": "even",
    }
    return MoleculeProperty(PROPERTIES[settings.property].kind, options)


def true_values(found: Tensor, batch: Item) -> Tensor:
    """Those of a batch: of the candidates of a tensor the ones nearest to what was found."""
    value = batch["value"]
    return nearest(found, value) if value.ndim > found.ndim else value


@torch.no_grad()
def predictions(model: nn.Module, items: Sequence[Item], cutoff: float) -> tuple[Tensor, Tensor]:
    """Found and true values of all molecules, in the unit of the property."""
    device = next(model.parameters()).device
    found, true = [], []
    for first in range(0, len(items), AT_ONCE):
        batch = {name: x.to(device) for name, x in collate(items[first : first + AT_ONCE], cutoff).items()}
        found.append(model(batch))
        true.append(true_values(found[-1], batch))
    return torch.cat(found).cpu(), torch.cat(true).cpu()


def prepare(settings: Settings, folder: Path, resumed: bool, accelerator: Accelerator) -> Job:
    """Data, model and what is done with them."""
    with accelerator.main_process_first():  # the others find what it kept
        molecules = data.load(None if settings.data is None else Path(settings.data), Path(settings.kept))
    split = data.split(len(molecules), settings.train, settings.split_seed)
    name, cutoff = settings.property, settings.cutoff
    train, valid, test = (
        items_of(molecules, places, name)
        for places in (split.train, split.valid[: settings.most_valid], split.test[: settings.most_test])
    )
    model = make_model(settings)
    whole = collate(train, cutoff)
    # Of a tensor one candidate is as good as another: isotropic part and size are the same.
    left = model.fit(whole, whole["value"] if whole["value"].ndim == 1 else whole["value"][:, 0])
    unit = float(left.square().mean().sqrt())

    def loss(model: nn.Module, batch: Item) -> Tensor:
        found = model(batch)
        errors = (found - true_values(found, batch)) / unit
        return errors.square().mean() if settings.loss == "squares" else errors.abs().mean()

    def validate(averaged: nn.Module) -> float:
        found, true = predictions(averaged, valid, cutoff)
        return float((found - true).abs().mean())

    def leave(averaged: nn.Module) -> None:
        found, true = predictions(averaged, test, cutoff)
        report.write_report(folder, cast(MoleculeProperty, averaged), name, found, true)

    return Job(
        model=model,
        optimizer=optimizer_for(model, settings.optimizer, settings.lr, weight_decay=settings.weight_decay),
        loss=loss,
        items=train,
        draw=draw,
        validate=validate,
        report=leave,
        data=f"{name} of {len(train)} molecules to train on, {len(valid)} to validate, {len(test)} to test",
        collate=partial(collate, cutoff=cutoff),
    )
