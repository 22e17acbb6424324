"""What structures come with: labels by the names that files give them, in the form in which they are trained on.

A virial W = −V σ, with the volume V of the cell and the stress σ that is positive under tension, becomes a stress. Six
numbers are xx, yy, zz, yz, xz, xy, as ASE's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from equiformer_pytorch.atoms.embedding import read_inputs
from equiformer_pytorch.atoms.tensors import isotropic_part, traceless_part

if TYPE_CHECKING:
    from ase import Atoms

    from equiformer_pytorch.base.potential import Input, Target

LABELS = ("energy", "forces", "stress")
# Where these are looked for unless the caller says otherwise; a virial only where there is no stress.
NAMES = {"energy": ("energy",), "forces": ("forces",), "stress": ("stress",), "virial": ("virial", "virials")}
# Names of a batch, which no target may have.
TAKEN = frozenset({*NAMES, "atomic_numbers", "pos", "cell", "pbc", "batch", "edge_index", "cell_offsets", "isolated"})
# The ending of targets that are parts of one matrix.
STEM = re.compile(r"_[02]$")
LIKE = {
    "energy": re.compile(r"energ|e_?tot|toten", re.IGNORECASE),
    "forces": re.compile(r"force|gradient", re.IGNORECASE),
    "stress": re.compile(r"stress|virial", re.IGNORECASE),
}
# What ASE's calculators leave beside a label, which says nothing new.
COMPANIONS = {"energy": {"free_energy", "energies"}, "forces": set(), "stress": {"stresses", "virials_per_atom"}}
VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]


class LabelReader:
    """Reads the labels of structures, and remembers what looks like one and is not read.

    Args:
        keys: the name in the file of `energy`, `forces`, `stress`, `virial` or a target, where it is another one.
            A stress that is read from a field with "virial" in its name is taken for a virial.
        targets: further labels by name, as :class:`EquiformerPotential` takes them. Structures without get zeros, and
            ``has_NAME`` says so. A symmetric 3×3 matrix (nine numbers, or six) read as a target of degree 0 or 2 gives
            its isotropic or its traceless part, see :mod:`equiformer_pytorch.atoms.tensors`; it may stand under the
            name of the target without its ending, `polarizability` for `polarizability_0` and `polarizability_2`.
        inputs: what structures come with beside their geometry, as a potential has it: read by name, or its default.

    Raises:
        ValueError: `keys` has a name that is neither, or `targets` one that is taken.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        targets: Mapping[str, Target] | None = None,
        inputs: Mapping[str, Input] | None = None,
    ) -> None:
        self.targets, self.inputs = dict(targets or {}), dict(inputs or {})
        taken = sorted(TAKEN.intersection(self.targets))
        if taken:
            raise ValueError(f"targets must have names of their own, got {taken}")
        self.keys = dict(keys or {})
        unknown = sorted(self.keys.keys() - {*NAMES, *self.targets})
        if unknown:
            raise ValueError(f"keys must be of {sorted({*NAMES, *self.targets})}, got {unknown}")
        self.names = {
            label: (self.keys[label],) if label in self.keys else NAMES.get(label, (label, STEM.sub("", label)))
            for label in (*NAMES, *self.targets)
        }
        self.records = 0
        self.found: Counter[str] = Counter()
        """How many records had each label."""
        self.passed_over: Counter[tuple[str, str]] = Counter()
        """Kind and name of fields that look like labels, by the number of records that have them."""

    def read(self, atoms: Atoms) -> dict[str, np.ndarray]:
        """Labels by name: `energy` (), `forces` (n, 3), `stress` (3, 3), targets with their first axis atoms or one.

        Raises:
            ValueError: a label has a wrong shape, or is no number; the message names it.
        """
        fields = fields_of(atoms)
        used, labels = set(), {}
        for label in LABELS:
            name = self._name(label, fields)
            if name is not None:
                used.add(name)
                labels[label] = _label(label, name, fields[name], atoms)
        if "stress" not in labels and (name := self._name("virial", fields)) is not None:
            used.add(name)
            labels["stress"] = _stress_of_virial(name, fields[name], atoms)
        for target in self.targets:
            labels |= self._target(target, fields, len(atoms), used)
        labels |= {name: value.numpy() for name, value in read_inputs(atoms, self.inputs).items()}
        self.records += 1
        self.found.update(name for name in labels if name in LABELS or (name in self.targets and labels[f"has_{name}"]))
        self._note(fields, used, labels, len(atoms))
        return labels

    def _name(self, label: str, fields: Mapping[str, Any]) -> str | None:
        """The field that holds a label; None where there is none."""
        for name in self.names[label]:
            if fields.get(name) is not None:
                return name
        return None

    def _target(self, name: str, fields: Mapping[str, Any], atoms: int, used: set[str]) -> dict[str, np.ndarray]:
        """A target and whether it is there."""
        target, field = self.targets[name], self._name(name, fields)
        rows = atoms if target.per == "atom" else 1
        shape = (rows, *(target.channels,) * (target.channels > 1), *(2 * target.degree + 1,) * (target.degree > 0))
        if field is None:
            return {name: np.zeros(shape), f"has_{name}": np.array(False)}
        used.add(field)
        value = _numbers(field, fields[field])
        if target.channels == 1 and target.degree in (0, 2) and value.size in (6 * rows, 9 * rows):
            matrices = _matrices(field, value.reshape(rows, -1))
            value = isotropic_part(matrices) if target.degree == 0 else traceless_part(matrices)
        if value.size != np.prod(shape) or (target.per == "atom" and value.shape[:1] != (atoms,)):
            wanted = shape[1:] if target.per == "structure" else shape
            raise ValueError(f"{field}: shape {value.shape}, wanted {wanted} for the target {name}")
        return {name: value.reshape(shape), f"has_{name}": np.array(True)}

    def _note(self, fields: Mapping[str, Any], used: set[str], labels: Mapping[str, Any], atoms: int) -> None:
        """Fields that look like labels and were not read."""
        for name, value in fields.items():
            if name in used:
                continue
            for kind, pattern in LIKE.items():
                known = name in NAMES.get(kind, ()) or name in NAMES["virial"] or name in COMPANIONS[kind]
                if pattern.search(name) and not (known and kind in labels) and _has_shape_of(kind, value, atoms):
                    self.passed_over[kind, name] += 1
                    break

    def summary(self) -> str | None:
        """What the caller should know of the names in the files; None if nothing."""
        parts = [
            f"keys[{label!r}] names {name!r}, which no record has"
            for label, name in self.keys.items()
            if self.records and not self.found["stress" if label == "virial" else label]
        ]
        if self.passed_over:
            unread = [f"{name} (in {count} of {self.records} records)" for (_, name), count in self.passed_over.items()]
            chosen = {}
            for (kind, name), _ in self.passed_over.most_common():
                chosen.setdefault("virial" if "virial" in name.lower() else kind, name)
            example = "keys={" + ", ".join(f'"{label}": "{name}"' for label, name in sorted(chosen.items())) + "}"
            parts.append(f"nothing reads {', '.join(unread)}; a label with another name is read by {example}")
        return "; ".join(parts) or None


def fields_of(atoms: Atoms) -> dict[str, Any]:
    """All that a structure carries beside species, positions and cell, by name; results of a calculation win."""
    arrays = {name: array for name, array in atoms.arrays.items() if name not in ("numbers", "positions")}
    return {**arrays, **atoms.info, **getattr(atoms.calc, "results", {})}


def group_of(atoms: Atoms, key: str) -> str | None:
    """What a structure says it is, e.g. by `config_type`."""
    value = atoms.info.get(key)
    return None if value is None else str(value)


def _label(label: str, name: str, value: Any, atoms: Atoms) -> np.ndarray:
    """Energy, forces or stress."""
    if label == "stress" and "virial" in name.lower():
        return _stress_of_virial(name, value, atoms)
    array = _numbers(name, value)
    if label == "stress":
        return _matrices(name, array.reshape(1, -1))[0]
    shape = () if label == "energy" else (len(atoms), 3)
    if label == "energy" and array.shape == (1,):
        array = array[0]
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}, wanted {shape}")
    return np.asarray(array)


def _stress_of_virial(name: str, value: Any, atoms: Atoms) -> np.ndarray:
    volume = abs(np.linalg.det(atoms.cell.array))
    if not volume > 0:
        raise ValueError(f"{name}: a virial needs a cell with a volume")
    return _matrices(name, _numbers(name, value).reshape(1, -1))[0] / -volume


def _matrices(name: str, values: np.ndarray) -> np.ndarray:
    """(rows, 3, 3) of nine numbers or six each."""
    if values.shape[1] == 9:
        return values.reshape(-1, 3, 3)
    if values.shape[1] == 6:
        return values[:, VOIGT]
    raise ValueError(f"{name}: {values.shape[1]} numbers, wanted 9 or 6 of a 3×3 matrix")


def _numbers(name: str, value: Any) -> np.ndarray:
    """As float64."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {value!r} is no array of numbers") from error


def _has_shape_of(kind: str, value: Any, atoms: int) -> bool:
    """Whether a field could be such a label."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    if kind == "energy":
        return array.size == 1
    return array.shape == (atoms, 3) if kind == "forces" else array.size in (6, 9) and array.ndim <= 2
