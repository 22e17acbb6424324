"""From what the network gives to eV: normalisers and energies of elements, for each dataset its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from equiformer_pytorch.base.checks import check_within
from equiformer_pytorch.published.escn_md.outputs import PROPERTIES
from equiformer_pytorch.published.escn_md.system import atoms_of


@dataclass(frozen=True)
class Task:
    """Output y of some datasets, y ↦ y · rmsd + mean; energies then + Σ references of their atoms."""

    name: str
    property: str
    datasets: tuple[str, ...]
    """None there: of all."""
    mean: float = 0.0
    rmsd: float = 1.0
    references: Float64[Tensor, " elements"] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Task:
        """An entry of fairchem's ``tasks_config``.

        Raises:
            ValueError: it has no name, property or datasets, or a normaliser that is not of one number.
        """
        try:
            name, property, datasets = config["name"], config["property"], config["datasets"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"tasks_config has an entry without name, property or datasets: {config}") from error
        normalizer = config.get("normalizer") or {}
        given = (normalizer.get("mean", 0.0), normalizer.get("rmsd", 1.0))
        numbers = [torch.as_tensor(number, dtype=torch.float64) for number in given]
        if any(number.numel() != 1 for number in numbers):
            raise ValueError(
                f"tasks_config: the normalizer of {name} must have one mean and one rmsd, got {normalizer}"
            )
        references = config.get("element_references")
        while isinstance(references, Mapping):
            key = "_args_" if "_args_" in references else "element_references"
            references = references.get(key)
            references = references[0] if key == "_args_" and references is not None else references
        table = None if references is None else torch.as_tensor(references, dtype=torch.float64).flatten()
        return cls(name, property, tuple(datasets), *(float(number) for number in numbers), references=table)

    def to_config(self) -> dict[str, Any]:
        """What :meth:`from_config` reads."""
        config: dict[str, Any] = {"name": self.name, "property": self.property, "datasets": list(self.datasets)}
        config["normalizer"] = {"mean": self.mean, "rmsd": self.rmsd}
        if self.references is not None:
            config["element_references"] = {"element_references": self.references}
        return config


@dataclass(frozen=True)
class Tasks:
    """All tasks of a model; it need have none."""

    all: tuple[Task, ...] = ()

    @property
    def datasets(self) -> set[str]:
        """Those that are named."""
        return {dataset for task in self.all for dataset in task.datasets}

    def find(self, property: str, dataset: str | None) -> Task | None:
        """That of a property of a dataset."""
        for task in self.all:
            if task.property == property and (dataset in task.datasets or not task.datasets):
                return task
        return None

    def references(self, dataset: str | None) -> Float64[Tensor, " elements"] | None:
        """Of the energies of a dataset, eV by atomic number."""
        task = self.find("energy", dataset)
        return None if task is None else task.references

    def shifted(self, dataset: str | None, shift: Float64[Tensor, " elements"]) -> Tasks:
        """With these energies added to those of the elements in one dataset."""
        task = self.find("energy", dataset)
        old = None if task is None else task.references
        total = shift.new_zeros(max(len(shift), 0 if old is None else len(old)))
        for table in (shift, old):
            if table is not None:
                total[: len(table)] += table.to(total)
        names = () if dataset is None else (dataset,)
        if task is None:
            return Tasks((*self.all, Task("_".join((*names, "energy")), "energy", names, references=total)))
        kept = (
            [replace(task, datasets=tuple(d for d in task.datasets if d != dataset))] if len(task.datasets) > 1 else []
        )
        changed = replace(task, datasets=names if task.datasets else (), references=total)
        return Tasks(tuple(part for each in self.all for part in ([changed, *kept] if each is task else [each])))

    def apply(
        self,
        outputs: Mapping[str, Tensor],
        numbers: Int[Tensor, " atoms"],
        batch: Int[Tensor, " atoms"],
        dataset: Int[Tensor, " structures"],
        known: Sequence[str],
    ) -> dict[str, Tensor]:
        """The outputs in eV and Å; energies in float64.

        Args:
            dataset: of each structure, index into `known`.

        Raises:
            ValueError: a dataset has references, and not of an element that there is.
        """
        scaled, names = {}, tuple(known) or (None,)
        for name, value in outputs.items():
            property = {"energies": "energy", "stresses": "stress"}.get(name, name)
            if property not in PROPERTIES:
                scaled[name] = value
                continue
            value = value.double() if property == "energy" else value
            shift, factor = (
                torch.tensor(column, dtype=value.dtype, device=value.device).index_select(0, dataset)
                for column in zip(*(self._scale(property, each) for each in names), strict=True)
            )
            of_atoms = name in ("forces", "energies", "stresses")
            shift = shift / atoms_of(batch, len(shift), shift.dtype) if name == "energies" else shift
            if of_atoms:
                shift, factor = shift.index_select(0, batch), factor.index_select(0, batch)
            rest = (1,) * (value.ndim - 1)
            scaled[name] = value * factor.view(-1, *rest) + shift.view(-1, *rest)
        return self._with_references(scaled, numbers, batch, dataset, names)

    def _scale(self, property: str, dataset: str | None) -> tuple[float, float]:
        """Mean and deviation; a gradient that was not trained on has the deviation of its energy."""
        task = self.find(property, dataset)
        if task is not None:
            return task.mean, task.rmsd
        energy = self.find("energy", dataset)
        return 0.0, 1.0 if energy is None else energy.rmsd

    def _with_references(
        self,
        scaled: dict[str, Tensor],
        numbers: Tensor,
        batch: Tensor,
        dataset: Tensor,
        names: Sequence[str | None],
    ) -> dict[str, Tensor]:
        tables = [self.references(name) for name in names]
        if all(table is None for table in tables):
            return scaled
        most = max(len(table) for table in tables if table is not None)
        rows = torch.zeros(len(names), most, dtype=torch.float64, device=numbers.device)
        for row, table in zip(rows, tables, strict=True):
            if table is not None:
                row[: len(table)] = table.to(row)
        check_within("atomic_numbers", numbers, most, ": the checkpoint has reference energies of these")
        of_atoms = rows[dataset.index_select(0, batch), numbers]
        scaled["energy"] = scaled["energy"].index_add(0, batch, of_atoms)
        if "energies" in scaled:
            scaled["energies"] = scaled["energies"] + of_atoms
        return scaled
