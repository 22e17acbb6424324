"""What generated backbones are compared with: pieces of natural chains, and two polymers that are easy to make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from examples.backbones.chains import COMPACT, Chain, compactness
from examples.backbones.geometry import atoms_of, grow, torsions
from examples.backbones.measures.secondary import COIL, HELIX, STRAND, secondary_structure

TRIES = 1000
# φ, ψ and their spread in degrees, of the helices and strands that are joined.
REGULAR = {HELIX: ((-63.0, -42.0), 6.0), STRAND: ((-120.0, 135.0), 15.0)}


def natural_crops(chains: Sequence[Chain], length: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Compact pieces of `length` residues of chains drawn at random: `count`, or fewer if there are not so many."""
    long_enough = [chain for chain in chains if len(chain) >= length]
    found: dict[tuple[str, int], Tensor] = {}
    for _ in range(TRIES if long_enough else 0):
        chain = long_enough[_draw(len(long_enough), generator)]
        start = _draw(len(chain) - length + 1, generator)
        piece = chain.coords[start : start + length]
        if float(compactness(piece)) < COMPACT:
            found[chain.name, start] = piece
        if len(found) == count:
            break
    return list(found.values())


def independent_torsions(chains: Sequence[Chain], length: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Polymers of ideal residues, the φ and ψ of each those of a natural residue drawn by itself."""
    natural = torch.cat([torsions(chain.coords)[1:-1] for chain in chains])
    drawn = natural[torch.randint(len(natural), (count, length), generator=generator)]
    return list(atoms_of(grow(drawn)))


def joined_elements(chains: Sequence[Chain], length: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Ideal helices and strands in the order of natural chains, joined by coil of residues drawn one by one.

    So there is as much regular structure as in nature, and in pieces as long, but nothing packs.
    """
    labels = [secondary_structure(chain.coords) for chain in chains]
    coil = torch.cat(
        [torsions(c.coords)[1:-1][torch.from_numpy(s[1:-1] == COIL)] for c, s in zip(chains, labels, strict=True)]
    )
    letters = np.concatenate(labels)  # of all chains, one after another
    backbones = []
    for _ in range(count):
        start = _draw(len(letters), generator)
        label = np.take(letters, np.arange(start, start + length), mode="wrap")
        drawn = coil[torch.randint(len(coil), (length,), generator=generator)]
        noise = torch.randn(length, 2, generator=generator)
        for letter, (centre, spread) in REGULAR.items():
            regular = torch.deg2rad(torch.tensor(centre) + spread * noise)
            regular = torch.cat((regular, torch.full((length, 1), math.pi)), -1)
            drawn = torch.where(torch.from_numpy(label == letter)[:, None], regular, drawn)
        backbones.append(atoms_of(grow(drawn)))
    return backbones


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
