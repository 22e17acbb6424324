"""QM9 (Ramakrishnan et al. 2014) from the CSV files of the package `qm9pack` 1.0.3, and its splits.

The 130,831 molecules that the authors do not doubt: geometries, in Å, and what `properties.py` lists. The files are
read where they lie, in seconds, and kept as tensors beside the runs; `qm9pack` itself is not imported.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.base.saved import read_saved, write_saved
from equiformer_pytorch.training.samples import generator_for
from examples.qm9.properties import COLUMNS, PROPERTIES, SPECIES

PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
TENSORS = "qm9_polarizability.csv"
SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
# The usual sizes of the training and the validation set; the others are for testing.
TRAIN, VALID = 110_000, 10_000


class DataError(ValueError):
    """The files are not there, or not what they should be."""


@dataclass(frozen=True)
class Molecules:
    """Molecules one after the other."""

    index: Int[Tensor, " molecules"]
    """Their numbers in QM9, ascending."""
    starts: Int[Tensor, " molecules_1"]
    """Where the atoms of each begin, and the end."""
    numbers: Int[Tensor, " atoms"]
    pos: Float[Tensor, "atoms 3"]
    """Å."""
    columns: Float[Tensor, "molecules columns"]
    """As in the files, in the order of `COLUMNS`."""

    def __len__(self) -> int:
        return len(self.index)

    def atoms(self, place: int) -> slice:
        """Those of a molecule."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def values(self, name: str) -> Float[Tensor, "molecules columns"]:
        """A property of all molecules, in its unit; without what isolated atoms have of it."""
        given = PROPERTIES[name]
        found = self.columns[:, [COLUMNS.index(column) for column in given.columns]]
        of_atoms = self.composition() @ torch.tensor(given.atoms, dtype=torch.float64)
        return (found - of_atoms[:, None]) * given.factor

    def composition(self) -> Float[Tensor, "molecules species"]:
        """How many atoms of each of `SPECIES`."""
        kinds = (self.numbers[:, None] == torch.tensor(SPECIES)).double()
        return torch.zeros(len(self), len(SPECIES), dtype=torch.float64).index_add(0, self.molecule(), kinds)

    def molecule(self) -> Int[Tensor, " atoms"]:
        """The place of the molecule of each atom."""
        return torch.arange(len(self)).repeat_interleave(self.starts.diff())


def installed() -> Path:
    """The folder of the files of the installed `qm9pack`, which is not imported."""
    found = find_spec("qm9pack")
    if found is None or not found.submodule_search_locations:
        raise DataError("the package qm9pack is missing: pip install --no-deps qm9pack==1.0.3, or name a folder")
    return Path(found.submodule_search_locations[0]) / "data"


def load(folder: Path | None, kept: Path) -> Molecules:
    """The molecules of the CSV files in a folder, or of the installed package; from the file `kept` where it is there,
    else written to it.

    Raises:
        DataError: a file is missing, or holds something else.
    """
    if folder is None and kept.exists():
        try:
            return Molecules(**read_saved(kept))
        except (OSError, TypeError, ValueError) as error:
            raise DataError(f"{kept} cannot be read, remove it: {error}") from error
    molecules = read(installed() if folder is None else folder)
    if folder is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_saved(vars(molecules), kept)
    return molecules


def read(folder: str | os.PathLike[str]) -> Molecules:
    """The molecules of all parts that are in a folder; of those that have a polarizability tensor beside, if any has.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    folder = Path(folder)
    parts = [path for path in (folder / name for name in PARTS) if path.exists()]
    if not parts or not (folder / TENSORS).exists():
        raise DataError(f"{folder} has not the files of qm9pack: {', '.join((*PARTS, TENSORS))}")
    tensors = {row["XYZ_file"]: row for row in _rows(folder / TENSORS)}
    index, sizes, numbers, positions, columns = [], [], [], [], []
    for path in parts:
        for line, row in enumerate(_rows(path), start=2):
            try:
                kinds = [SYMBOLS[symbol] for symbol in row["Elements"].translate(PLAIN).split(",")]
                pos = np.array(row["XYZ_Ang"].translate(PLAIN).split(","), dtype=np.float64).reshape(len(kinds), 3)
                whole = {**row, **tensors[row["XYZ_file"]]}
                columns.append([float(whole[column]) for column in COLUMNS])
                index.append(int(row["Index"]))
            except (KeyError, ValueError, AttributeError) as error:
                raise DataError(f"{path}, line {line}: {error!r}") from error
            sizes.append(len(kinds))
            numbers += kinds
            positions.append(pos)
    starts = torch.zeros(len(sizes) + 1, dtype=torch.long)
    starts[1:] = torch.tensor(sizes).cumsum(0)
    return Molecules(
        torch.tensor(index),
        starts,
        torch.tensor(numbers),
        torch.from_numpy(np.concatenate(positions)),
        torch.tensor(columns, dtype=torch.float64),
    )


# Lists in the files, without what surrounds their entries.
PLAIN = str.maketrans("", "", "[]' ")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**20)
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


@dataclass(frozen=True)
class Split:
    """Places of molecules: `train` are the first of all that could be trained on, `test` the same for any size."""

    train: Sequence[int]
    valid: Sequence[int]
    test: Sequence[int]


def split(count: int, train: int, seed: int) -> Split:
    """110,000 molecules to train on, of which the first so many are taken, 10,000 to validate, the others to test; of
    fewer molecules than QM9 has, in these proportions.

    Raises:
        DataError: there are not so many to train on.
    """
    most, valid = (TRAIN, VALID) if count > TRAIN + VALID else (int(0.8 * count), int(0.1 * count))
    if train > most:
        raise DataError(f"there are {most} molecules to train on, not {train}")
    order = torch.randperm(count, generator=generator_for("qm9 split", seed)).tolist()
    return Split(order[:train], order[most : most + valid], order[most + valid :])
