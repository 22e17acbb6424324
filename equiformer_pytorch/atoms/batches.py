"""What is done alike with every kind of potential: batches in, eV and eV/Å out; reference energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from equiformer_pytorch.atoms.dataset import collate_structures
from equiformer_pytorch.atoms.heads import fit_element_energies
from equiformer_pytorch.base.potential import Potential


def predict(potential: nn.Module, batch: Mapping[str, Tensor], *, stress: bool = False) -> dict[str, Tensor]:
    """Energy (structures,) in eV and float64, and forces (atoms, 3) in eV/Å, to train on or to compare; and the
    targets of the potential.

    Args:
        potential: of any kind, or ``DistributedDataParallel`` around one.
        batch: of :func:`collate_structures`.
        stress: also the stress (structures, 3, 3) in eV/Å³.

    Raises:
        ValueError: a stress is wanted of a model that gives none, or of structures without volume.
    """
    model = potential.module if isinstance(potential, DistributedDataParallel) else potential
    return cast(Potential, model).evaluate(batch, stress=stress, through=potential)


def gives_stress(potential: Potential) -> bool:
    """Whether `potential` knows of stress: an :class:`EquiformerPotential` always, others with ``regress_stress``."""
    return "stress" in potential.gives


def element_energies(potential: Potential) -> Float64[Tensor, " elements"]:
    """The reference energies that `potential` adds, in eV, by atomic number (0 … the highest that it knows); zero where
    there is none."""
    return potential.element_energies()


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
        missing += (batch["energy"] - potential.evaluate(batch, forces=False)["energy"]).tolist()
    potential.shift_element_energies(fit_element_energies([item["atomic_numbers"] for item in structures], missing))
