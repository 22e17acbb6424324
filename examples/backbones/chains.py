"""Backbones of protein chains: N, CA, C and O of every residue, in Å, without gaps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "backbone_chains.npz"
ATOMS = ("N", "CA", "C", "O")
COMPACT = 1.3  # globular chains have a compactness of 1.0 ± 0.1


@dataclass(frozen=True)
class Chain:
    """A chain without gaps, or a piece of one."""

    name: str
    sequence: str  # one letter per residue; X where it is none of the twenty
    coords: Tensor  # (residues, 4, 3) float32, Å: N, CA, C, O

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def compactness(self) -> float:
        """Rg of the CA over what a globular protein of this length has: Rg / (2.2 N^0.38 Å)."""
        return float(compactness(self.coords[None])[0])

    def residues(self, start: int, stop: int) -> Chain:
        """Residues start … stop - 1."""
        return Chain(self.name, self.sequence[start:stop], self.coords[start:stop])


@dataclass(frozen=True)
class Chains:
    """Chains to train on, to choose by, and to compare with: no held-out chain has the fold of a training chain."""

    train: tuple[Chain, ...]
    valid: tuple[Chain, ...]
    test: tuple[Chain, ...]

    def compact(self, bound: float = COMPACT) -> Chains:
        """The chains whose compactness is below `bound`: without tails, hairpins and long helices of larger things."""
        train, valid, test = (
            tuple(chain for chain in split if chain.compactness < bound)
            for split in (self.train, self.valid, self.test)
        )
        return Chains(train, valid, test)


def compactness(coords: Tensor) -> Tensor:
    """Rg of the CA over 2.2 N^0.38 Å, of backbones (…, residues, 4, 3): (…)."""
    ca = coords[..., 1, :]
    radius = (ca - ca.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()
    return radius / (2.2 * ca.shape[-2] ** 0.38)


def load_chains(path: Path = SHIPPED) -> Chains:
    """The chains of a file that `save_chains` wrote; without an argument those that are shipped."""
    with np.load(path) as file:
        names, sequences, splits = (file[key].tolist() for key in ("names", "sequences", "splits"))
        pieces = torch.from_numpy(file["coords"]).split([len(sequence) for sequence in sequences])
    found: dict[str, list[Chain]] = {"train": [], "valid": [], "test": []}
    for name, sequence, coords, split in zip(names, sequences, pieces, splits, strict=True):
        found[split].append(Chain(name, sequence, coords))
    return Chains(*(tuple(chains) for chains in found.values()))


def save_chains(chains: Chains, path: Path) -> None:
    """Writes chains, centred, to an .npz file: names, sequences, splits, and all coordinates one after another."""
    members = [(split, chain) for split, found in vars(chains).items() for chain in found]
    np.savez_compressed(
        path,
        names=[chain.name for _, chain in members],
        sequences=[chain.sequence for _, chain in members],
        splits=[split for split, _ in members],
        coords=torch.cat([chain.coords - chain.coords.mean((0, 1)) for _, chain in members]).numpy(),
    )
