"""Errors of a potential on structures with known energies and forces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import collate_structures


def predict(model: EquiformerPotential, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Energy and forces of a batch of :func:`collate_structures`."""
    names = ("atomic_numbers", "pos", "batch", "cell", "edge_index", "cell_offsets")
    return model(**{name: batch[name] for name in names})


@dataclass(frozen=True)
class Errors:
    """Predicted and true, in eV per atom, beyond the reference energies of the atoms, and eV/Å."""

    energies: Tensor
    true_energies: Tensor
    forces: Tensor
    true_forces: Tensor

    @property
    def force_mae(self) -> float:
        """Mean absolute error of the components, eV/Å."""
        return (self.forces - self.true_forces).abs().mean().item()

    @property
    def force_rmse(self) -> float:
        """Root mean square error of the components, eV/Å."""
        return (self.forces - self.true_forces).square().mean().sqrt().item()

    @property
    def force_size(self) -> float:
        """Mean length of the true forces, eV/Å."""
        return self.true_forces.norm(dim=1).mean().item()

    @property
    def energy_mae(self) -> float:
        """eV per atom."""
        return (self.energies - self.true_energies).abs().mean().item()

    @property
    def energy_rmse(self) -> float:
        """eV per atom."""
        return (self.energies - self.true_energies).square().mean().sqrt().item()


def errors(model: EquiformerPotential, structures: Dataset[dict[str, Tensor]], batch_size: int = 16) -> Errors:
    """Of all structures."""
    device = model.network.device
    parts: list[tuple[Tensor, ...]] = []
    for batch in DataLoader(structures, batch_size, collate_fn=collate_structures):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.no_grad():
            out = predict(model, batch)
        atoms = torch.bincount(batch["batch"])
        reference = model.energies.references[model.energies.index(batch["atomic_numbers"])]
        reference = torch.zeros_like(out["energy"]).index_add(0, batch["batch"], reference)
        energies = ((energy - reference) / atoms for energy in (out["energy"], batch["energy"]))
        compared = (*energies, out["forces"], batch["forces"])
        parts.append(tuple(tensor.double().cpu() for tensor in compared))
    return Errors(*(torch.cat(column) for column in zip(*parts, strict=True)))
