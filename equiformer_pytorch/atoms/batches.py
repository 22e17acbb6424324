"""What is done alike with every kind of potential: batches in, eV and eV/Å out; reference energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from equiformer_pytorch.atoms.dataset import collate_structures
from equiformer_pytorch.atoms.heads import HEAVIEST, fit_element_energies
from equiformer_pytorch.atoms.load import Potential
from equiformer_pytorch.atoms.potential import EquiformerPotential
from equiformer_pytorch.published.model import PublishedModel

INPUTS = ("atomic_numbers", "pos", "batch", "cell", "edge_index", "cell_offsets")


def predict(potential: nn.Module, batch: Mapping[str, Tensor], *, stress: bool = False) -> dict[str, Tensor]:
    """Energy (structures,) in eV and float64, and forces (atoms, 3) in eV/Å, to train on or to compare.

    Args:
        potential: an :class:`EquiformerPotential`, :class:`EquiformerV2` or :class:`EquiformerV3`, or
            ``DistributedDataParallel`` around one.
        batch: of :func:`collate_structures`.
        stress: also the stress (structures, 3, 3) in eV/Å³.

    Raises:
        ValueError: a stress is wanted of a model that gives none, or of structures without volume.
    """
    model = potential.module if isinstance(potential, DistributedDataParallel) else potential
    if stress and not gives_stress(model):
        raise ValueError("stress is wanted, and the model gives none (regress_stress is False)")
    inputs = {name: batch[name] for name in INPUTS}
    if not isinstance(model, PublishedModel):
        return potential(**inputs, stress=stress)
    out = model.scales.apply(potential(**inputs), batch["atomic_numbers"], batch["batch"])
    if stress:
        out["stress"] = out["stress"].unflatten(-1, (3, 3))
    return out


def gives_stress(potential: nn.Module) -> bool:
    """Whether the model knows of stress: an :class:`EquiformerPotential` always, others with ``regress_stress``."""
    if isinstance(potential, PublishedModel):
        return potential.stress_block is not None or potential.gradient_stress
    return True


def element_energies(potential: Potential) -> Float64[Tensor, " elements"]:
    """The reference energy of each atomic number, in eV; zero where there is none."""
    found = torch.zeros(HEAVIEST + 1, dtype=torch.float64)
    if isinstance(potential, EquiformerPotential):
        found[potential.species] = potential.energies.references.cpu()
    elif potential.scales.element_energies is not None:
        known = potential.scales.element_energies[: HEAVIEST + 1]
        found[: len(known)] = known.to(found)
    return found


@torch.no_grad()
def refit_references(potential: Potential, structures: Sequence[Mapping[str, Tensor]], batch_size: int = 16) -> None:
    """Shift the reference energies so that the potential's energies come closest to those of the structures, by least
    squares; everything else that it has learned stays. For data with another zero of energy than it was trained on.

    Args:
        potential: of any kind; changed in place.
        structures: items of :func:`load_structures` with `energy`.
        batch_size: structures that are evaluated at once.

    Raises:
        ValueError: there is no structure, or one has an element that the potential does not know.
    """
    device = next(potential.parameters()).device
    missing: list[float] = []
    for batch in DataLoader(structures, batch_size, collate_fn=collate_structures):  # pyright: ignore[reportArgumentType]
        batch: dict[str, Any] = {name: tensor.to(device) for name, tensor in batch.items()}
        missing += (batch["energy"] - predict(potential, batch)["energy"]).tolist()
    shift = fit_element_energies([item["atomic_numbers"] for item in structures], missing)
    if isinstance(potential, EquiformerPotential):
        potential.energies.references += shift[potential.species].to(device)
    else:
        potential.scales = potential.scales.shifted(shift)
