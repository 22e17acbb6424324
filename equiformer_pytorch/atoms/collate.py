"""Batches of structures: atoms and edges one after the other, with what is known of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from equiformer_pytorch.atoms.labels import LABELS

JOINED = ("atomic_numbers", "pos", "cell_offsets")
STACKED = ("cell", "pbc")


def collate_structures(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of several structures: atoms and edges one after the other, the rest stacked.

    Adds `batch` (n,), which tells the structure of each atom. Energy, forces and stress come with ``has_energy``,
    ``has_forces``, ``has_stress`` (structures,), False where a structure has none; there the label is zero. A label
    that no structure has is left out. Whatever else items hold is stacked where it is one number, else joined along
    its first axis, atoms or structures.

    Raises:
        ValueError: there is no structure; or items hold something else, and not all of them.
    """
    if not items:
        raise ValueError("a batch needs at least one structure")
    sizes = [len(item["pos"]) for item in items]
    starts = accumulate(sizes[:-1], initial=0)
    device = items[0]["pos"].device
    batch = {
        "batch": torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device)),
        "edge_index": torch.cat([item["edge_index"] + start for item, start in zip(items, starts, strict=True)], 1),
    }
    batch |= {name: torch.cat([item[name] for item in items]) for name in JOINED}
    batch |= {name: torch.stack([item[name] for item in items]) for name in STACKED}
    for label in LABELS:
        batch |= _label(label, items)
    known = {*batch, *LABELS, "isolated", "damaged"}
    for name in dict.fromkeys(name for item in items for name in item if name not in known):
        missing = [str(place) for place, item in enumerate(items) if name not in item]
        if missing:
            raise ValueError(
                f"structure {', '.join(missing)} of the batch ({len(items)} structures) has no {name}, others have: "
                f"give it to all, or drop it from all"
            )
        values = [item[name] for item in items]
        batch[name] = torch.stack(values) if values[0].ndim == 0 else torch.cat(values)
    damaged = [item["damaged"] for item in items if "damaged" in item]
    return batch | ({"damaged": torch.cat(damaged)} if damaged else {})


def _label(label: str, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Zeros for structures without, and which have it."""
    like = next((item[label] for item in items if label in item), None)
    if like is None:
        return {}

    def value(item: dict[str, Tensor]) -> Tensor:
        if label in item:
            return item[label]
        return like.new_zeros(len(item["pos"]), 3) if label == "forces" else torch.zeros_like(like)

    values = [value(item) for item in items]
    has = torch.tensor([label in item for item in items], device=like.device)
    return {label: torch.cat(values) if label == "forces" else torch.stack(values), f"has_{label}": has}
