"""From what a network gives to physical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.base.checks import check_within
from equiformer_pytorch.published.heads import symmetric_tensors

# What is a part of something else, of each atom.
PARTS = {"energies": "energy", "stresses": "stress"}
# Parts of a stress that may have normalisers of their own, and their components among those of a symmetric tensor.
STRESS_PARTS = {"stress_isotropic": (0, 1), "stress_anisotropic": (4, 9)}
# Names of normalisers in older files.
OLD_NAMES = {"target": "energy", "grad_target": "forces"}


@dataclass(frozen=True)
class Scales:
    """Per output (mean, deviation), and the energy of each element: y ↦ y · deviation + mean, + Σ energies of atoms.

    A stress may have them for its parts, ``stress_isotropic`` and ``stress_anisotropic``; they act first."""

    normalizers: dict[str, tuple[float, float]] = field(default_factory=dict)
    element_energies: Float[Tensor, " elements"] | None = None

    @classmethod
    def from_checkpoint(cls, contents: Mapping[str, Any]) -> Scales:
        """From ``normalizers`` and ``elementrefs``, where the file has them.

        Raises:
            ValueError: if a normaliser is not a pair of numbers.
        """
        normalizers = {}
        for name, state in (contents.get("normalizers") or {}).items():
            mean = state.get("mean", 0.0)
            deviation = state.get("rmsd", state.get("std", state.get("stdev", 1.0)))
            if any(torch.as_tensor(number).numel() != 1 for number in (mean, deviation)):
                raise ValueError(f"normalizers[{name!r}] must have one mean and one rmsd, got {mean} and {deviation}")
            normalizers[OLD_NAMES.get(name, name)] = (float(mean), float(deviation))
        references = (contents.get("elementrefs") or {}).get("energy")
        if references is None:
            return cls(normalizers)
        return cls(normalizers, torch.as_tensor(references["element_references"]).flatten())

    def to_checkpoint(self) -> dict[str, Any]:
        """What :meth:`from_checkpoint` reads."""
        contents: dict[str, Any] = {
            "normalizers": {
                name: {"mean": mean, "rmsd": deviation} for name, (mean, deviation) in self.normalizers.items()
            }
        }
        if self.element_energies is not None:
            contents["elementrefs"] = {"energy": {"element_references": self.element_energies}}
        return contents

    def shifted(self, energies: Float[Tensor, " elements"]) -> Scales:
        """With these energies (eV) added to those of the elements, by atomic number."""
        total = energies.new_zeros(
            max(len(energies), 0 if self.element_energies is None else len(self.element_energies))
        )
        for table in (energies, self.element_energies):
            if table is not None:
                total[: len(table)] += table.to(total)
        return replace(self, element_energies=total)

    def apply(
        self, outputs: Mapping[str, Tensor], atomic_numbers: Int[Tensor, " atoms"], batch: Int[Tensor, " atoms"]
    ) -> dict[str, Tensor]:
        """The outputs in the units of the data; energies in float64, since reference energies have more digits than
        float32 holds."""
        scaled = {}
        for name, value in outputs.items():
            whole = PARTS.get(name, name)
            mean, deviation = self.normalizers.get(whole, (0.0, 1.0))
            if whole == "stress" and self.normalizers.keys() & STRESS_PARTS:
                value, shift = self._of_stress_parts(value)
                mean = shift * deviation + mean
            if name in PARTS and (isinstance(mean, Tensor) or mean):
                ones = torch.ones_like(batch, dtype=torch.float64)
                atoms = torch.zeros_like(outputs["energy"], dtype=torch.float64).index_add(0, batch, ones)
                mean = (mean / atoms.view(-1, *[1] * (value.ndim - 1)))[batch]
            scaled[name] = (value.double() if name in ("energy", "energies") else value) * deviation + mean
        if self.element_energies is not None:
            known = self.element_energies.shape[0]
            check_within("atomic_numbers", atomic_numbers, known, ": the checkpoint has reference energies of these")
            of_atoms = self.element_energies.to(scaled["energy"])[atomic_numbers]
            scaled["energy"] = scaled["energy"].index_add(0, batch, of_atoms)
            if "energies" in scaled:
                scaled["energies"] = scaled["energies"] + of_atoms
        return scaled

    def _of_stress_parts(self, stress: Float[Tensor, "*structures 9"]) -> tuple[Tensor, Float[Tensor, "9"]]:
        """The stress with its parts scaled, and what is still to be added to it."""
        tensors = symmetric_tensors().to(stress)
        scale, shift = torch.ones_like(tensors[0]), torch.zeros_like(tensors[0])
        for name, (first, last) in STRESS_PARTS.items():
            mean, deviation = self.normalizers.get(name, (0.0, 1.0))
            shift[first:last], scale[first:last] = mean, deviation
        return ((stress @ tensors.mT) * scale) @ tensors, shift @ tensors
