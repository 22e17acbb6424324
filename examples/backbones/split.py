"""Training, validation and test chains that share no fold."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from examples.backbones.chains import COMPACT, Chain, Chains
from examples.backbones.measures.folds import tm_score

SAME_FOLD = 0.5  # TM, of the length of the held-out chain
LARGEST_GROUP = 6  # chains that may be held out with one
LENGTHS = (60, 260)  # residues of chains that are held out for themselves
HELD_OUT = {"valid": 10, "test": 24}  # compact chains


class SplitError(ValueError):
    """There are too few chains, or too few folds, to hold some out."""


def split_by_fold(chains: Sequence[Chain], wanted: Mapping[str, int] = HELD_OUT) -> Chains:
    """Holds out chains, such that no held-out chain has a TM of 0.5 or more, of its length, to a training chain.

    With a chain, all are held out whose fold it has, and those whose fold these have. Chains are gone through in an
    order that means nothing (of the checksums of their names) until there are `wanted` compact ones; those of a fold
    that is common here stay in training.

    Raises:
        SplitError: if a split would be empty.
    """
    known: dict[tuple[int, int], float] = {}
    splits = ["train"] * len(chains)
    left = dict(wanted)
    for i in sorted(range(len(chains)), key=lambda i: zlib.crc32(chains[i].name.encode())):
        usable = chains[i].compactness < COMPACT and LENGTHS[0] <= len(chains[i]) <= LENGTHS[1]
        if not usable or splits[i] != "train" or max(left.values()) <= 0:
            continue
        group = _same_fold(chains, i, known)
        if len(group) > LARGEST_GROUP or any(splits[j] != "train" for j in group):
            continue
        split = max(sorted(left), key=lambda split: left[split] / wanted[split])
        for j in group:
            splits[j] = split
            left[split] -= chains[j].compactness < COMPACT
    found = {
        name: tuple(chain for chain, split in zip(chains, splits, strict=True) if split == name)
        for name in ("train", "valid", "test")
    }
    empty = [name for name, members in found.items() if not members]
    if empty:
        raise SplitError(
            f"{len(chains)} chains cannot be split by fold: none is left for {' and '.join(empty)}; more chains of "
            f"{LENGTHS[0]} – {LENGTHS[1]} residues and of different folds are wanted"
        )
    return Chains(**found)


def _same_fold(chains: Sequence[Chain], first: int, known: dict[tuple[int, int], float]) -> set[int]:
    """A chain, those whose fold it has, those whose fold these have, … ; cut short above `LARGEST_GROUP`."""
    group, waiting = {first}, [first]
    while waiting:
        i = waiting.pop()
        for j in sorted(set(range(len(chains))) - group):
            if len(chains[j]) < SAME_FOLD * len(chains[i]):  # TM is at most the share that can be aligned
                continue
            if (i, j) not in known:
                known[i, j] = tm_score(chains[i].coords, chains[j].coords)
            if known[i, j] >= SAME_FOLD:
                group.add(j)
                waiting.append(j)
                if len(group) > LARGEST_GROUP:
                    return group
    return group
