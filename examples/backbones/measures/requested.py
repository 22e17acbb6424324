"""Whether a backbone is what was asked for: a motif and how it is joined, secondary structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from examples.backbones.measures import local
from examples.backbones.measures.compare import rmsd


class MotifFound(NamedTuple):
    """What became of a motif."""

    rmsd: float
    """Å, of N, CA and C of the motif's residues; O depends on the next residue, which may be a new one."""
    junction: float
    """Å, the longest C–N bond between a residue of the motif and a new one."""
    ca_clashes: float
    """Per 100 residues, of pairs of which one or both are new."""
    atom_clashes: float


def motif_found(coords: Tensor, motif: Tensor, known: Tensor) -> MotifFound:
    """Of a backbone (residues, 4, 3) with a motif (k, ≥ 3, 3) at the k residues that are `known` (residues,)."""
    edges = known[1:] != known[:-1]
    bonds = (coords[1:, 0] - coords[:-1, 2]).norm(dim=-1)[edges]
    return MotifFound(
        rmsd(coords[known, :3], motif[:, :3]),
        float(bonds.max()),
        local.ca_clashes(coords, ~known),
        local.atom_clashes(coords, ~known),
    )


class Agreement(NamedTuple):
    """Shares of residues whose secondary structure is that of a request."""

    asked: float
    """Of their own request."""
    others: float
    """The mean over the requests of all other backbones."""
    reordered: float
    """What to expect of the letters of the own request in random order."""
    helix: float
    """Of the residues of which a helix was asked."""
    strand: float
    coil: float


def agreement(found: Sequence[np.ndarray], asked: Sequence[np.ndarray]) -> Agreement:
    """Of backbones (n arrays of one-letter strings, all as long) with their requests.

    Both kinds of shuffled requests are exact means over all of them, so nothing is drawn.

    Raises:
        ValueError: if there are fewer than two, not as many of both, or they are not as long.
    """
    shapes = {x.shape for x in (*found, *asked)}
    if len(found) < 2 or len(found) != len(asked) or len(shapes) != 1:
        raise ValueError(
            f"found and asked must be two or more each, all as long, got {len(found)} and {len(asked)} of the lengths "
            f"{sorted(shape[0] for shape in shapes)}"
        )
    one, two = np.stack(found), np.stack(asked)
    same = (one[:, None] == two[None]).mean(-1)  # (backbones, requests)
    own, count = same.trace(), len(one)
    by_chance = sum((one == letter).mean(1) * (two == letter).mean(1) for letter in "HE-")
    of_letters = [float((one == letter)[two == letter].mean()) if (two == letter).any() else np.nan for letter in "HE-"]
    return Agreement(
        float(own / count),
        float((same.sum() - own) / (count * (count - 1))),
        float(np.mean(by_chance)),
        *of_letters,
    )


def ca_rmsd(coords: Tensor, other: Tensor) -> float:
    """Å, of the CA of two backbones (residues, 4, 3) alone."""
    return rmsd(coords[:, 1], other[:, 1])
