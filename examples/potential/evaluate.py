"""Errors of a potential on structures with known energies and forces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equiformer_pytorch.atoms import Potential, collate_structures, element_energies, gives_stress, predict


@dataclass(frozen=True)
class Errors:
    """Predicted and true, in eV per atom, beyond the reference energies of the atoms, eV/Å, and eV/Å³."""

    energies: Tensor
    true_energies: Tensor
    forces: Tensor
    true_forces: Tensor
    stresses: Tensor
    """None at all, (0, 3, 3), where the data or the model have no stress."""
    true_stresses: Tensor

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

    @property
    def stress_mae(self) -> float | None:
        """Mean absolute error of the components, eV/Å³; None where there is no stress."""
        return (self.stresses - self.true_stresses).abs().mean().item() if len(self.stresses) else None


def errors(model: Potential, structures: Dataset[dict[str, Tensor]], batch_size: int = 16) -> Errors:
    """Of all structures."""
    device = next(model.parameters()).device
    of_element = element_energies(model).to(device)
    parts: list[tuple[Tensor, ...]] = []
    for batch in DataLoader(structures, batch_size, collate_fn=collate_structures):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.no_grad():
            with_stress = "stress" in batch and gives_stress(model)
            out = predict(model, batch, stress=with_stress)
        atoms = torch.bincount(batch["batch"])
        reference = torch.zeros_like(out["energy"]).index_add(0, batch["batch"], of_element[batch["atomic_numbers"]])
        energies = ((energy - reference) / atoms for energy in (out["energy"], batch["energy"]))
        stresses = (out["stress"], batch["stress"]) if with_stress else 2 * (batch["pos"].new_zeros(0, 3, 3),)
        compared = (*energies, out["forces"], batch["forces"], *stresses)
        parts.append(tuple(tensor.double().cpu() for tensor in compared))
    return Errors(*(torch.cat(column) for column in zip(*parts, strict=True)))
