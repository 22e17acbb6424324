"""What a run that trains a potential trains, and on what."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from equiformer_pytorch.atoms import EquiformerPotential, Potential, StructureDataset
from equiformer_pytorch.atoms.dataset import LazyItems
from equiformer_pytorch.training.optimizers import optimizer_for
from equiformer_pytorch.training.options import assigned
from equiformer_pytorch.training.potentials import data, report, start
from equiformer_pytorch.training.potentials.batches import collate_pieces
from equiformer_pytorch.training.potentials.errors import errors
from equiformer_pytorch.training.potentials.loss import PotentialLoss
from equiformer_pytorch.training.potentials.settings import PotentialSettings
from equiformer_pytorch.training.runs import Job, RunError

SETUP_ERRORS = (RunError,)


def draw(item: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A sample is the structure as it is: the model needs no turned copies."""
    return item


def prepare(settings: PotentialSettings, folder: Path, resumed: bool, accelerator: Accelerator) -> Job:
    """Data, model and what is done with them."""
    settings, model = start.decided(settings), None
    targets, inputs = start.targets_of(settings), start.inputs_of(settings)
    form = data.Form(settings.cutoff, None, True, None, targets, inputs)
    if settings.checkpoint is not None:
        if not resumed:  # what a resumed run holds may have been the default of an older version
            start.check_none_is_ignored(settings)
        model = start.potential_of(folder / start.START if resumed else settings.checkpoint)
        targets = dict(model.targets)
        dtype = next(model.parameters()).dtype
        neighbours = model.max_neighbors, model.strict_neighbors
        form = data.Form(model.cutoff, *neighbours, dtype, targets, dict(model.inputs))
    with accelerator.main_process_first():  # the others find what it made
        splits = data.read_splits(settings, form, accelerator.print)
    species = start.species_of(settings) if model is None else list(model.elements)
    if species:
        splits = start.check_structures(species, model is None or model.use_pbc, splits)
    found = data.survey(splits["train"], species, targets)
    weights = _weights(settings, found.labels, targets)
    data.check_labels(splits["valid"], weights)
    if model is None:
        model, references = start.new_potential(settings, found, targets, inputs)
    else:
        references = None
    splits = start.check_structures(model.elements, model.use_pbc, splits)
    if "forces" in weights and "forces" not in model.gives:
        raise RunError(f"--checkpoint {settings.checkpoint} gives no forces, which are trained on")
    if "stress" in weights and "stress" not in model.gives:
        del weights["stress"]
    if "stress" not in weights:
        model.leave_out_stress_head()
    if settings.checkpoint is not None and not resumed and "energy" in weights:
        references = start.refit(model.to(accelerator.device), found.sample)
    if settings.checkpoint is not None and not resumed and accelerator.is_main_process:
        folder.mkdir(parents=True)
        model.save(folder / start.START)
    if not weights.keys() & {"energy", "forces", "stress"}:
        _leave_out_energy(model)
    elif references is not None and "energy" in weights:
        accelerator.print(references.told(start.SYMBOLS))
    loss = _loss(weights, found, targets)
    evaluate = partial(errors, most_edges=settings.max_edges, workers=settings.workers)
    described = data.describe(splits, found)
    figure_of_merit = "error"

    def validate(averaged: nn.Module) -> float:
        nonlocal figure_of_merit
        figure_of_merit, value = evaluate(cast(Potential, averaged.module), splits["valid"]).score
        return value

    def leave(averaged: nn.Module) -> None:
        tests = {name: structures for name, structures in splits.items() if name.startswith("test")}
        training = {"data": described, "settings": report.plain(settings)}
        shown = tests or {"valid": splits["valid"]}
        report.write_report(folder, cast(Potential, averaged), shown, evaluate, figure_of_merit, training)
        _say_damaged(loss.damaged, splits["train"])

    def finish() -> None:
        loss.damaged.update(gather_object(sorted(loss.damaged)))

    return Job(
        model=model,
        optimizer=optimizer_for(model, settings.optimizer, settings.lr),
        loss=loss,
        items=splits["train"].items,
        draw=draw,
        validate=validate,
        report=leave,
        data=described,
        collate=partial(collate_pieces, most_edges=settings.max_edges),
        finish=finish,
    )


def _weights(settings: PotentialSettings, labels: Counter[str], targets: dict[str, Any]) -> dict[str, float]:
    """Of the labels that there are; RunError if there are none, or a target is missing."""
    known = {"energy": settings.energy_weight, "forces": settings.force_weight, "stress": settings.stress_weight}
    weights = {name: weight for name, weight in known.items() if labels[name]}
    of_targets = assigned(settings.target_weights)
    strange = sorted(of_targets.keys() - targets.keys())
    if strange:
        raise RunError(f"--target-weights has {strange}, the targets are {sorted(targets)}")
    for name in targets:
        if not labels[name]:
            raise RunError(f"no structure to train on has the target {name}: --keys {name}=NAME says where it is")
        weights[name] = float(of_targets.get(name, 1.0))
    if not weights:
        raise RunError("no structure to train on has energy, forces or stress: --keys energy=NAME says where they are")
    return weights


def _loss(weights: dict[str, float], found: data.Survey, targets: dict[str, Any]) -> PotentialLoss:
    """With scales from the data."""
    from equiformer_pytorch.atoms.references import find_references

    scale = find_references(found.sample).scale
    scales = {}
    for name, target in targets.items():
        values = torch.cat([item[name] for item in found.sample if bool(item[f"has_{name}"])]).double()
        size = values.std(correction=0) if target.degree == 0 else values.square().mean().sqrt()
        scales[name] = size.item() if size > 0 else max(values.abs().max().item(), 1.0)
    per_atom = {"forces", *(name for name, target in targets.items() if target.per == "atom")}
    return PotentialLoss(weights, 1.0 if scale is None else scale, scales, frozenset(per_atom))


def _leave_out_energy(model: Potential) -> None:
    """Of a model that nothing teaches energies: its energies are zero, and no weight of theirs is trained."""
    if not isinstance(model, EquiformerPotential):
        raise RunError("no structure to train on has energy, forces or stress, and the potential has no targets")
    model.energies.scale.zero_()
    model.energies.references.zero_()
    model.to_energy.requires_grad_(False)


def _say_damaged(damaged: set[int], train: StructureDataset) -> None:
    """Which records could not be used, at the end of a run."""
    if not damaged or not isinstance(train.items, LazyItems):
        return
    print(f"{len(damaged)} records to train on could not be used; others came in their stead:")
    for number in sorted(damaged)[:10]:
        print(f"  {train.items.why(number)}")
    if len(damaged) > 10:
        print(f"  and {len(damaged) - 10} more")
