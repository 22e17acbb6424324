"""An endless stream of samples in which everything random depends on the seed and the sample's number only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Generic, TypeVar

import torch
from torch.utils.data import Dataset

Item = TypeVar("Item")
Sample = TypeVar("Sample")


def seed_for(purpose: str, *numbers: int) -> int:
    """A seed of 63 bits that is another one for any other purpose or numbers."""
    return int.from_bytes(sha256(repr((purpose, *numbers)).encode()).digest()[:8], "big") >> 1


def generator_for(purpose: str, *numbers: int) -> torch.Generator:
    """A generator of its own for this purpose and these numbers."""
    return torch.Generator().manual_seed(seed_for(purpose, *numbers))


class SampleStream(Dataset[Sample], Generic[Item, Sample]):
    """Sample k is `draw(item, generator)`: the items go round, shuffled anew each time.

    A run that starts at sample k sees what a run that came from sample 0 would see, whatever process loads it.

    Args:
        items: what to draw from.
        draw: makes a sample of an item, taking all its randomness from the generator.
        length: how many samples the stream has.
        seed: of the order and of the generators.

    Raises:
        ValueError: there are no items.
    """

    def __init__(
        self, items: Sequence[Item], draw: Callable[[Item, torch.Generator], Sample], length: int, seed: int
    ) -> None:
        if not len(items):
            raise ValueError("a stream needs at least one item to draw from")
        self.items = items
        self.draw = draw
        self.length = length
        self.seed = seed
        self._round, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < self.length:
            raise IndexError(f"sample {number} of a stream of {self.length}")
        turn, place = divmod(number, len(self.items))
        if turn != self._round:
            self._round = turn
            self._order = torch.randperm(len(self.items), generator=generator_for("order", self.seed, turn))
        return self.draw(self.items[int(self._order[place])], generator_for("sample", self.seed, number))
