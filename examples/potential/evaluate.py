"""Errors of a potential on structures with known energies and forces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equiformer_pytorch.atoms import Potential, collate_structures, element_energies, predict


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


def errors(model: Potential, structures: Dataset[dict[str, Tensor]], batch_size: int = 16) -> Errors:
    """Of all structures."""
    device = next(model.parameters()).device
    of_element = element_energies(model).to(device)
    parts: list[tuple[Tensor, ...]] = []
    for batch in DataLoader(structures, batch_size, collate_fn=collate_structures):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.no_grad():
            out = predict(model, batch)
        atoms = torch.bincount(batch["batch"])
        reference = torch.zeros_like(out["energy"]).index_add(0, batch["batch"], of_element[batch["atomic_numbers"]])
        energies = ((energy - reference) / atoms for energy in (out["energy"], batch["energy"]))
        compared = (*energies, out["forces"], batch["forces"])
        parts.append(tuple(tensor.double().cpu() for tensor in compared))
    return Errors(*(torch.cat(column) for column in zip(*parts, strict=True)))
