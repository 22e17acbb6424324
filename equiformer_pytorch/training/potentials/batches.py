"""Batches of no more structures, and no more edges, than a device bears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from equiformer_pytorch.atoms import StructureDataset, collate_structures
from equiformer_pytorch.training.loop import Pieces

Item = dict[str, Tensor]


def pieces(items: Sequence[Item], most_edges: int | None) -> list[list[int]]:
    """Places of the items, in order, in pieces of at most `most_edges` edges, or of one item that has more."""
    found: list[list[int]] = []
    edges = 0
    for place, item in enumerate(items):
        here = item["edge_index"].shape[1]
        if not found or (most_edges is not None and edges + here > most_edges):
            found.append([])
            edges = 0
        found[-1].append(place)
        edges += here
    return found


def collate_pieces(items: Sequence[Item], most_edges: int | None) -> Pieces:
    """A batch for training: pieces, each with its `share` of the structures, so that losses add up to that of all."""
    found = Pieces()
    for places in pieces(items, most_edges):
        piece = collate_structures([items[place] for place in places])
        found.append(piece | {"share": torch.tensor(len(places) / len(items))})
    return found


def in_order(
    structures: StructureDataset, batch_size: int, *, most_edges: int | None = None, workers: int = 0
) -> Iterator[tuple[list[int], Item]]:
    """Batches of all structures that can be used, with their places in the data set; those in whose stead another one
    came are left out."""
    loader = DataLoader(
        _Numbered(structures),  # pyright: ignore[reportArgumentType]
        batch_size,
        collate_fn=partial(_usable_pieces, most_edges=most_edges),
        num_workers=workers,
    )
    for batches in loader:
        yield from batches


class _Numbered(Sequence[tuple[int, Item]]):
    """Items with their places."""

    def __init__(self, structures: StructureDataset) -> None:
        self.structures = structures

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index: int) -> tuple[int, Item]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return index, self.structures[index]


def _usable_pieces(numbered: Iterable[tuple[int, Item]], most_edges: int | None) -> list[tuple[list[int], Item]]:
    usable = [(number, item) for number, item in numbered if "damaged" not in item]
    items = [item for _, item in usable]
    return [
        ([usable[place][0] for place in places], collate_structures([items[place] for place in places]))
        for places in pieces(items, most_edges)
    ]
