"""What a potential gives of structures, written beside what they have, and what the structures say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io import write
from torch import Tensor

from equiformer_pytorch.atoms import Potential, StructureDataset
from equiformer_pytorch.atoms.committee import STD
from equiformer_pytorch.atoms.labels import group_of
from equiformer_pytorch.atoms.tensors import matrices_of


class Predictions:
    """Writes structures in the extxyz format: as they were, with ``predicted_energy``, ``predicted_forces``, …; of a
    committee also ``predicted_energy_std``, …

    Args:
        model: whose predictions they are.
        structures: with the files that they came from.
        group: the name by which structures say what group they are of.
        file: to write to.
    """

    def __init__(self, model: Potential, structures: StructureDataset, group: str, file: IO[str]) -> None:
        self.targets, self.structures, self.group, self.file = model.targets, structures, group, file
        self.groups: dict[int, str] = {}
        """Of the structures that were seen, by place; those that name none have none."""
        self.files: dict[int, Path] = {}
        self.elements: dict[int, frozenset[int]] = {}

    def write(self, places: list[int], batch: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        """One batch, for :func:`errors`."""
        found = {name: tensor.detach().double().cpu().numpy() for name, tensor in out.items()}
        owner = batch["batch"].cpu().numpy()
        for row, place in enumerate(places):
            atoms = self.structures.atoms(place)
            self.files[place] = self.structures.file(place)
            self.elements[place] = frozenset(map(int, atoms.numbers))
            group = group_of(atoms, self.group)
            if group is not None:
                self.groups[place] = group
            atoms.info = {name: value for name, value in atoms.info.items() if _can_be_written(value)}
            rows = {name: owner == row if self._per_atom(name) else row for name in found}
            self._add(atoms, {name: np.asarray(x[rows[name]]) for name, x in found.items()})
            write(self.file, atoms, format="extxyz")

    def _per_atom(self, name: str) -> bool:
        name = name.removesuffix(STD)
        return name == "forces" or (name in self.targets and self.targets[name].per == "atom")

    def _add(self, atoms: Atoms, found: dict[str, np.ndarray]) -> None:
        """To a structure what was found for it; the two parts of a symmetric matrix are put together."""
        if atoms.cell.rank < 3:
            found = {name: x for name, x in found.items() if name.removesuffix(STD) != "stress"}
        for name in [name for name in found if name.endswith("_0")]:
            stem = name.removesuffix("_0")
            traceless, per_atom = found.get(f"{stem}_2"), self._per_atom(name)
            if traceless is not None and traceless.size == 5 * found[name].size:
                matrices = matrices_of(found.pop(name).reshape(-1), found.pop(f"{stem}_2").reshape(-1, 5))
                self._set(atoms, stem, matrices if per_atom else matrices[0], per_atom)
        for name, value in found.items():
            self._set(atoms, name, value, self._per_atom(name))

    @staticmethod
    def _set(atoms: Atoms, name: str, value: np.ndarray, per_atom: bool) -> None:
        if per_atom:
            atoms.arrays[f"predicted_{name}"] = value.reshape(len(atoms), -1) if value.ndim > 1 else value
        else:
            atoms.info[f"predicted_{name}"] = value.item() if value.ndim == 0 else value


def _can_be_written(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim <= 2 and value.dtype.kind in "biuf"
    return isinstance(value, str | bool | int | float | np.generic)
