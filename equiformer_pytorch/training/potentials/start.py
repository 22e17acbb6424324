"""What a run trains: a new potential, or one from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import Input, Potential, Target, collate_structures, load_potential
from equiformer_pytorch.atoms.dataset import LazyItems
from equiformer_pytorch.atoms.references import References, find_references
from equiformer_pytorch.training.options import assigned
from equiformer_pytorch.training.potentials.data import Splits, Survey
from equiformer_pytorch.training.potentials.settings import OF_NEW_POTENTIALS, PotentialSettings
from equiformer_pytorch.training.runs import RunError

# What a run went on from, in its folder: a resumed run needs the file that was given no more.
START = "start.pt"
SYMBOLS = dict(enumerate(chemical_symbols))
RATES = {"muon": 3e-3, "adamw": 1e-3}


def decided(settings: PotentialSettings) -> PotentialSettings:
    """With the optimizer and the learning rate that --optimizer auto and --lr 0 stand for."""
    name = settings.optimizer
    if name == "auto":
        name = "muon" if settings.checkpoint is None else "adamw"
    return replace(settings, optimizer=name, lr=settings.lr or RATES[name])


def targets_of(settings: PotentialSettings) -> dict[str, Target]:
    """The targets that --targets names; NAME=0+2 is the two parts of a symmetric matrix, NAME_0 and NAME_2."""
    found = {}
    for name, text in assigned(settings.targets).items():
        degrees, _, per = text.partition(":")
        if per not in ("", "structure", "atom") or degrees not in (*map(str, range(11)), "0+2"):
            raise RunError(f"--targets {name}={text} is not NAME=DEGREE, NAME=DEGREE:atom or NAME=0+2")
        for degree in degrees.split("+"):
            part = f"{name}_{degree}" if "+" in degrees else name
            found[part] = Target(int(degree), "atom" if per == "atom" else "structure")
    return found


RANGE = re.compile(r"(any|(-?\d+)\.\.(-?\d+))(:atom|:structure)?")


def inputs_of(settings: PotentialSettings) -> dict[str, Input]:
    """The inputs that --inputs names."""
    found = {}
    for name, text in assigned(settings.inputs).items():
        parts = RANGE.fullmatch(text)
        if parts is None:
            raise RunError(f"--inputs {name}={text} is not NAME=LEAST..MOST or NAME=any, with :atom for each atom")
        per = "atom" if parts[4] == ":atom" else "structure"
        found[name] = Input(per)
        if parts[1] != "any":
            least, most = int(parts[2]), int(parts[3])
            found[name] = Input(per, least, most, default=min(max(0, least), most))
    return found


def species_of(settings: PotentialSettings) -> list[int]:
    """The atomic numbers that --species names; none by default."""
    found = []
    for text in settings.species:
        number = int(text) if text.isdecimal() else atomic_numbers.get(text, 0)
        if not 1 <= number < len(chemical_symbols):
            raise RunError(f"--species {text} is neither the symbol of an element nor an atomic number")
        found.append(number)
    return sorted(set(found))


def new_potential(
    settings: PotentialSettings, found: Survey, targets: Mapping[str, Target], inputs: Mapping[str, Input]
) -> tuple[EquiformerPotential, References]:
    """With weights that depend on the seed only, reference energies and scale from the training set."""
    torch.manual_seed(settings.seed)
    try:
        model = EquiformerPotential(
            species=found.species,
            cutoff=settings.cutoff,
            dim=settings.dim[0] if len(settings.dim) == 1 else settings.dim,
            num_degrees=max([settings.num_degrees, *(target.degree + 1 for target in targets.values())]),
            depth=settings.depth,
            heads=settings.heads,
            dim_head=settings.dim_head,
            radial_basis=settings.radial_basis,
            l2_dist_attention=settings.attention == "l2",
            reflection_equivariant=not settings.chiral,
            targets=targets,
            inputs=inputs,
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    model.fit(found.sample)
    return model, find_references(found.sample)


def potential_of(path: str | Path) -> Potential:
    """That of the file."""
    try:
        return load_potential(path)
    except (OSError, ValueError) as error:
        raise RunError(f"--checkpoint {str(error).splitlines()[0]}") from error


def check_none_is_ignored(settings: PotentialSettings) -> None:
    """RunError if there is an option that --checkpoint decides."""
    default = {option.name: option.default for option in fields(settings)}
    ignored = [name for name in OF_NEW_POTENTIALS if getattr(settings, name) != default[name]]
    if ignored:
        raise RunError(f"--checkpoint decides the model: leave out --{ignored[0].replace('_', '-')}")


@torch.no_grad()
def refit(model: Potential, sample: Sequence[Mapping[str, Tensor]], batch_size: int = 16) -> References:
    """Shift the reference energies so that the potential's energies come closest to those of the structures: exactly
    for atoms alone, where there are some, else by least squares. What it has learned stays."""
    device = next(model.parameters()).device
    items = [dict(item) for item in sample if "energy" in item]
    for first in range(0, len(items), batch_size):
        some = items[first : first + batch_size]
        batch = {name: tensor.to(device) for name, tensor in collate_structures(some).items()}
        missing = batch["energy"] - model.evaluate(batch, forces=False)["energy"]
        for item, energy in zip(some, missing.cpu(), strict=True):
            item["energy"] = energy
    found = find_references(items or sample)
    model.shift_element_energies(found.energies)
    return found


def check_structures(elements: Sequence[int], use_pbc: bool, splits: Splits) -> Splits:
    """RunError unless a potential of these elements that sees structures repeated, or not, can be trained on them;
    where structures are read lazily, records that are not such count as damaged."""
    checked = {}
    for name, structures in splits.items():
        checked[name] = structures
        if isinstance(structures.items, LazyItems):
            checked[name] = structures.with_items(structures.items.only_of(elements, use_pbc))
            continue
        numbers = {int(number) for item in structures.items for number in item["atomic_numbers"]}
        unknown = sorted(numbers.difference(elements))
        if unknown:
            raise RunError(f"{name} has atomic numbers {unknown}, which the potential does not know")
        if not use_pbc and any(bool(item["pbc"].any()) for item in structures.items):
            raise RunError(f"{name} has periodic structures, and the potential does not see them so (use_pbc=False)")
    return checked
