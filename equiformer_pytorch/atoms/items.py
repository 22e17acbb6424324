"""From a structure as ASE has it to tensors with a graph: an item of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.atoms.labels import LabelReader
from equiformer_pytorch.graph.periodic import radius_graph

if TYPE_CHECKING:
    from ase import Atoms

LAST_ELEMENT = 118
# The same in numpy, where there is one.
NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64, torch.bool: np.bool_}
# What `config_type` says of a structure that is an atom alone, but for case and punctuation.
ALONE = "isolatedatom"


@dataclass(frozen=True)
class Form:
    """How items are made: graphs within `cutoff`, in Å, of at most `max_neighbors`, and the dtype of the tensors."""

    cutoff: float
    max_neighbors: int | None
    strict_neighbors: bool
    dtype: torch.dtype


@dataclass(frozen=True)
class Checked:
    """A structure that can be used, if its numbers are finite and its graph possible."""

    numbers: np.ndarray
    pos: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    labels: dict[str, np.ndarray]
    alone: bool
    """Whether it is said to be an isolated atom."""

    @classmethod
    def of(cls, atoms: Atoms, reader: LabelReader) -> Checked:
        """ValueError if something about it is impossible."""
        count = len(atoms)
        if not count:
            raise ValueError("it has no atoms")
        numbers = atoms.numbers
        if numbers.min() < 1 or numbers.max() > LAST_ELEMENT:
            unknown = sorted({int(z) for z in numbers if not 1 <= z <= LAST_ELEMENT})
            raise ValueError(f"unknown species: atomic number {', '.join(map(str, unknown))}")
        labels = reader.read(atoms)
        kind = str(atoms.info.get("config_type", ""))
        alone = count == 1 and "".join(filter(str.isalnum, kind)).lower() == ALONE
        return cls(numbers, atoms.positions, atoms.cell.array, atoms.pbc, labels, alone)

    def values(self) -> dict[str, np.ndarray]:
        """All that has to be finite."""
        return {"positions": self.pos, "cell": self.cell, **self.labels}


def make_items(structures: Sequence[Checked], form: Form) -> list[dict[str, Tensor]]:
    """All of them, with one search for neighbours.

    Raises:
        ValueError: something is not finite, or a graph impossible, whichever structure's.
    """
    if not structures:
        return []
    values = [value.ravel() for structure in structures for value in structure.values().values()]
    if not np.isfinite(np.concatenate(values)).all():
        for structure in structures:
            for name, value in structure.values().items():
                if not np.isfinite(value).all():
                    raise ValueError(f"{name}: not finite")
    sizes = [len(structure.pos) for structure in structures]
    number = torch.as_tensor(np.repeat(np.arange(len(sizes)), sizes), device="cpu")
    start = torch.tensor(np.cumsum([0, *sizes[:-1]]), device="cpu")
    pos, cell, pbc = (
        torch.as_tensor(joined, device="cpu")
        for joined in (
            np.concatenate([structure.pos for structure in structures]),
            np.stack([structure.cell for structure in structures]),
            np.stack([structure.pbc for structure in structures]),
        )
    )
    edge_index, offsets = radius_graph(
        pos,
        form.cutoff,
        batch=number,
        cell=cell,
        pbc=pbc,
        max_neighbors=form.max_neighbors,
        strict_neighbors=form.strict_neighbors,
    )
    of_edge = number.index_select(0, edge_index[1])
    edges = (edge_index - start.index_select(0, of_edge)).numpy(), offsets.numpy()
    ends = torch.searchsorted(of_edge, torch.arange(len(sizes) + 1, device="cpu")).tolist()
    return [
        _item(structure, edges[0][:, first:last].copy(), edges[1][first:last].copy(), form.dtype)
        for structure, (first, last) in zip(structures, pairwise(ends), strict=True)
    ]


def _item(structure: Checked, edge_index: np.ndarray, offsets: np.ndarray, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of one structure."""
    item = {
        "atomic_numbers": _tensor(structure.numbers, torch.int64),
        "pos": _tensor(structure.pos, dtype),
        "cell": _tensor(structure.cell, dtype),
        "pbc": _tensor(structure.pbc, torch.bool),
        "edge_index": torch.from_numpy(edge_index),
        "cell_offsets": torch.from_numpy(offsets),
    }
    for name, value in structure.labels.items():
        as_it_is = torch.float64 if name == "energy" else torch.bool if value.dtype == np.bool_ else None
        item[name] = _tensor(value, as_it_is or dtype)
    if structure.alone or (len(structure.pos) == 1 and not len(offsets)):
        item["isolated"] = _tensor(np.array(True), torch.bool)
    return item


def _tensor(value: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A copy; by way of numpy, which is faster for the small."""
    return torch.from_numpy(np.array(value, dtype=NUMPY.get(dtype))).to(dtype)


def make_possible_items(
    structures: Sequence[Checked], form: Form, impossible: Callable[[int, ValueError], Any]
) -> list[tuple[int, dict[str, Tensor]]]:
    """Those whose graphs are possible, with their places; `impossible` is told of the others."""
    try:
        return list(enumerate(make_items(structures, form)))
    except ValueError:
        made = []
        for place, structure in enumerate(structures):
            try:
                made.append((place, make_items([structure], form)[0]))
            except ValueError as error:
                impossible(place, error)
        return made
