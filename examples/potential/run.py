"""What a run of `train_potential.py` trains, and on what."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from equiformer_pytorch.atoms import (
    Potential,
    StructureDataset,
    collate_structures,
    gives_stress,
    load_structures,
    predict,
    refit_references,
)
from examples.potential import data, evaluate, report, start
from examples.potential.settings import Settings
from examples.runs import Job, RunError

SETUP_ERRORS = (data.DataError, RunError)
ROBUST = {"delta": 0.1, "reduction": "none"}


def load_data(settings: Settings, model: Potential | None) -> dict[str, StructureDataset]:
    """The splits: train, valid and one or more whose names begin with test; with graphs as the model sees them."""
    if settings.data in ("g2", "aspirin"):
        make = {"g2": data.g2, "aspirin": data.aspirin}[settings.data]
        paths = make(Path(settings.data_folder) / settings.data)
    else:
        paths = {path.stem: path for path in sorted(Path(settings.data).glob("*.xyz"))}
    wanted = [name for name in paths if name in ("train", "valid") or name.startswith("test")]
    if not {"train", "valid"} < set(wanted):
        raise RunError(f"{settings.data} must have train.xyz, valid.xyz and test….xyz, got {sorted(paths)}")
    cutoff, nearest, dtype = settings.cutoff, None, None
    if model is not None:
        cutoff, nearest, dtype = model.cutoff, model.max_neighbors, next(model.parameters()).dtype
    try:
        splits = {name: load_structures(paths[name], cutoff, max_neighbors=nearest, dtype=dtype) for name in wanted}
    except ValueError as error:
        raise RunError(str(error)) from error
    for name, structures in splits.items():
        for label in ("energy", "forces"):
            without = [index for index, item in enumerate(structures.items) if label not in item]
            if without:
                raise RunError(f"{paths[name]}, record {without[0]}: it has no {label}")
        without = [index for index, item in enumerate(structures.items) if "stress" not in item]
        if without and len(without) < len(structures.items):
            raise RunError(f"{paths[name]}, record {without[0]}: it has no stress, others have")
    return splits


def loss(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    scale: float,
    energy_weight: float,
    force_weight: float,
    stress_weight: float | None,
) -> Tensor:
    """Huber errors of energies, of force components and, with `stress_weight`, of those of the virial, in units of the
    scale of the forces, mean over structures.

    Energies and virials are those of a structure over the root of its number of atoms, which their errors grow with.
    Beyond `ROBUST` the loss grows linearly: strained geometries have forces ten times the usual ones.
    """
    out = predict(model, batch, stress=stress_weight is not None)
    atoms = torch.bincount(batch["batch"])
    unit = scale * atoms**0.5
    energy = huber_loss(out["energy"] / unit, batch["energy"] / unit, **ROBUST)
    per_atom = huber_loss(out["forces"] / scale, batch["forces"] / scale, **ROBUST).mean(1)
    force = torch.zeros_like(energy).index_add(0, batch["batch"], per_atom.double()) / atoms
    total = energy_weight * energy + force_weight * force
    if stress_weight is not None:
        volume = (torch.linalg.det(batch["cell"]).abs() / unit)[:, None, None]
        virial = huber_loss(out["stress"] * volume, batch["stress"] * volume, **ROBUST)
        total = total + stress_weight * virial.mean((1, 2))
    return total.mean()


def draw(item: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A sample is the structure as it is: the model needs no turned copies."""
    return item


def prepare(settings: Settings, folder: Path, resumed: bool, accelerator: Accelerator) -> Job:
    """Data, model and what is done with them."""
    model = None
    if settings.checkpoint is not None:
        model = start.potential_of(folder / start.START if resumed else settings.checkpoint, settings)
    with accelerator.main_process_first():  # the others find what it made
        splits = load_data(settings, model)
    if model is None:
        model = start.new_potential(settings, splits["train"])
    start.check_structures(model, splits)
    stress_weight = None
    if "stress" in splits["train"].items[0] and gives_stress(model):
        stress_weight = settings.stress_weight
    else:
        start.leave_out_stress_head(model)
    if settings.checkpoint is not None and not resumed:
        refit_references(model.to(accelerator.device), splits["train"].items)
        if accelerator.is_main_process:
            folder.mkdir(parents=True)
            model.save(folder / start.START)
    forces = torch.cat([item["forces"] for item in splits["train"].items])
    scale = forces.double().square().mean().sqrt().item()

    def validate(averaged: nn.Module) -> float:
        return evaluate.errors(averaged.module, splits["valid"]).force_rmse

    def leave(averaged: nn.Module) -> None:
        tests = {name: dataset for name, dataset in splits.items() if name.startswith("test")}
        report.write_report(folder, averaged, tests)

    return Job(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0),
        loss=partial(
            loss,
            scale=scale,
            energy_weight=settings.energy_weight,
            force_weight=settings.force_weight,
            stress_weight=stress_weight,
        ),
        items=splits["train"].items,
        draw=draw,
        validate=validate,
        report=leave,
        data="structures: " + ", ".join(f"{len(dataset)} {name}" for name, dataset in splits.items()),
        collate=collate_structures,
    )
