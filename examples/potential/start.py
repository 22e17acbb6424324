"""What a run trains: a new potential, or one from a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import Potential, StructureDataset, load_potential
from equiformer_pytorch.published.model import PublishedModel
from examples.potential.settings import OF_NEW_POTENTIALS, Settings
from examples.runs import RunError

# What a run went on from, in its folder: a resumed run needs the file that was given no more.
START = "start.pt"


def new_potential(settings: Settings, train_set: StructureDataset) -> EquiformerPotential:
    """With weights that depend on the seed only, reference energies and scale from the training set."""
    torch.manual_seed(settings.seed)
    species = sorted({int(number) for item in train_set.items for number in item["atomic_numbers"]})
    model = EquiformerPotential(
        species=species,
        cutoff=settings.cutoff,
        dim=settings.dim[0] if len(settings.dim) == 1 else settings.dim,
        num_degrees=settings.num_degrees,
        depth=settings.depth,
        heads=settings.heads,
        dim_head=settings.dim_head,
        l2_dist_attention=settings.attention == "l2",
    )
    model.fit(train_set.items)
    return model


def potential_of(path: str | Path, settings: Settings) -> Potential:
    """That of the file, which must give forces."""
    default = {option.name: option.default for option in fields(Settings)}
    ignored = [name for name in OF_NEW_POTENTIALS if getattr(settings, name) != default[name]]
    if ignored:
        raise RunError(f"--checkpoint decides the model: leave out --{ignored[0].replace('_', '-')}")
    try:
        model = load_potential(path)
    except (OSError, ValueError) as error:
        raise RunError(f"--checkpoint {str(error).splitlines()[0]}") from error
    if isinstance(model, EquiformerPotential):
        if model.targets:
            raise RunError(f"--checkpoint {path} has targets {sorted(model.targets)}, which nothing trains here")
    elif model.force_block is None and not model.gradient_forces:
        raise RunError(f"--checkpoint {path} gives no forces (regress_forces is False), which are trained on")
    return model


def leave_out_stress_head(model: Potential) -> None:
    """Of a model that nothing trains it in: it would fall behind. A stress that is a gradient stays."""
    if isinstance(model, PublishedModel) and model.stress_block is not None:
        model.stress_block, model.config["regress_stress"] = None, False


def check_structures(model: Potential, splits: dict[str, StructureDataset]) -> None:
    """RunError unless the potential knows all elements, and repeats structures that are periodic."""
    repeats = not isinstance(model, PublishedModel) or model.use_pbc
    for name, structures in splits.items():
        numbers = {int(number) for item in structures.items for number in item["atomic_numbers"]}
        unknown = sorted(numbers.difference(known_elements(model)))
        if unknown:
            raise RunError(f"{name}.xyz has atomic numbers {unknown}, which the potential does not know")
        if not repeats and any(bool(item["pbc"].any()) for item in structures.items):
            raise RunError(
                f"{name}.xyz has periodic structures, and the potential does not see them so (use_pbc=False)"
            )


def known_elements(model: Potential) -> list[int]:
    """The atomic numbers that it takes."""
    if isinstance(model, EquiformerPotential):
        return model.species
    return list(range(1, model.sphere_embedding.num_embeddings))
