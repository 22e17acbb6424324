"""What a potential is trained on: errors of whatever labels the structures of a batch have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import huber_loss
from torch.nn.parallel import DistributedDataParallel

from equiformer_pytorch.atoms import Potential

ROBUST = {"delta": 0.1, "reduction": "none"}


def outputs(model: nn.Module, batch: Mapping[str, Tensor], *, forces: bool, stress: bool) -> dict[str, Tensor]:
    """What a potential, or ``DistributedDataParallel`` around one, gives of a batch.

    A stress is that of a box of 1 Å³ where a structure has no volume, and means nothing there.
    """
    potential = cast(Potential, model.module if isinstance(model, DistributedDataParallel) else model)
    if stress:
        flat = torch.linalg.det(batch["cell"]) == 0
        box = torch.eye(3, dtype=batch["cell"].dtype, device=batch["cell"].device)
        batch = {**batch, "cell": torch.where(flat[:, None, None], box, batch["cell"])}
    return potential.evaluate(batch, forces=forces, stress=stress, through=model)


@dataclass(frozen=True)
class PotentialLoss:
    """Mean over structures of weighted Huber errors of energies, of force components, of those of the virial and of
    the targets; what a structure does not have counts nothing.

    Energies and virials are those of a structure over the root of its number of atoms, which their errors grow with,
    in units of `scale`, as forces are; targets in units of their own. Beyond `ROBUST` the loss grows linearly:
    strained geometries have forces ten times the usual ones.

    Args:
        weights: of "energy", "forces", "stress" and targets; what has none is not computed, if it need not be.
        scale: eV/Å, or eV per root of an atom.
        target_scales: of the targets that have a weight.
        per_atom: what there is one of for each atom.
    """

    weights: Mapping[str, float]
    scale: float
    target_scales: Mapping[str, float]
    per_atom: frozenset[str]
    damaged: set[int] = field(default_factory=set)
    """Numbers of records in whose stead others came."""

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Of a model and a batch, or a piece of one with its `share`."""
        if "damaged" in batch:
            self.damaged.update(batch["damaged"].tolist())
        out = outputs(model, batch, forces="forces" in self.weights, stress="stress" in self.weights)
        atoms = torch.bincount(batch["batch"], minlength=len(batch["cell"]))
        total = torch.zeros_like(out["energy"])
        for name, weight in self.weights.items():
            # Zero times what is computed for no structure: each weight has a gradient in every batch.
            total = total + 0.0 * out[name].sum()
            if name in batch:
                errors = self._errors(name, out[name], batch, atoms)
                total = total + weight * torch.where(batch[f"has_{name}"], errors, 0.0)
        return total.mean() * batch.get("share", 1.0)

    def _errors(
        self, name: str, found: Tensor, batch: Mapping[str, Tensor], atoms: Tensor
    ) -> Float[Tensor, " structures"]:
        """Of each structure, weight 1."""
        true = batch[name]
        if name == "energy":
            unit = self.scale * atoms**0.5
            return huber_loss(found / unit, true / unit, **ROBUST)
        if name == "stress":
            volume = torch.linalg.det(batch["cell"]).abs()
            unit = (volume / (self.scale * atoms**0.5))[:, None, None]
            return huber_loss(found * unit, true * unit, **ROBUST).double().mean((1, 2))
        unit = self.scale if name == "forces" else self.target_scales[name]
        errors = huber_loss(found / unit, true / unit, **ROBUST).double()
        errors = errors.flatten(1).mean(1) if errors.ndim > 1 else errors
        if name not in self.per_atom:
            return errors
        return torch.zeros_like(atoms, dtype=torch.float64).index_add(0, batch["batch"], errors) / atoms
