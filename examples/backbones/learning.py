"""What the denoiser learns from: crops of chains, noised, and how far its estimates are off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from examples.backbones.chains import Chain
from examples.backbones.geometry import Frames, frames_of, residue
from examples.backbones.measures.secondary import secondary_structure
from examples.backbones.network import OPEN, STRUCTURES, Residues
from examples.backbones.process import HIGHEST, KNOWN, LOWEST, add_noise, angle_of, mean_of
from examples.backbones.rotations import random_rotations

SHORTEST_MOTIF = 8
LOCAL = (1, 2, 3, 4)
"""Residues apart whose distances count for themselves: those that make bonds, turns and helices."""


class Item(NamedTuple):
    """A chain to draw crops of."""

    coords: Tensor
    """(residues, 4, 3) Å."""
    structure: Tensor
    """(residues,) place in `STRUCTURES`."""


class Shares(NamedTuple):
    """Of the samples, which have something given."""

    motifs: float
    structures: float


def items_of(chains: Sequence[Chain], crop: int) -> list[Item]:
    """Each chain as often as it holds crops, so that residues come up about alike."""
    return [
        Item(chain.coords, structure_tokens(chain.coords))
        for chain in chains
        for _ in range(max(1, round(len(chain) / crop)))
    ]


def structure_tokens(coords: Tensor) -> Tensor:
    """Secondary structure of a backbone (residues, 4, 3): (residues,) places in `STRUCTURES`."""
    return torch.tensor([STRUCTURES.index(letter) for letter in secondary_structure(coords)])


def mean_squares(chains: Sequence[Chain], farthest: int = 128) -> Tensor:
    """Å², mean squared distance of CA that are 1, 2, … residues apart, as far as chains reach."""
    sums, counts = torch.zeros(farthest), torch.zeros(farthest)
    for chain in chains:
        ca = chain.coords[:, 1]
        for apart in range(1, min(farthest, len(ca) - 1) + 1):
            sums[apart - 1] += (ca[apart:] - ca[:-apart]).square().sum()
            counts[apart - 1] += len(ca) - apart
    return (sums / counts.clamp(min=1))[counts > 0]


def draw_level(generator: torch.Generator) -> float:
    """A noise level in Å: most between 0.5 and 8, where shape is decided."""
    while True:
        level = math.exp(math.log(2.0) + 1.3 * float(torch.randn((), generator=generator)))
        if LOWEST <= level <= HIGHEST:
            return level


def draw_crop(item: Item, generator: torch.Generator, crop: int, shares: Shares) -> dict[str, Tensor]:
    """A piece of a chain, anywhere in space, and the same noised; at times with a motif or its structure given."""
    size = len(item.coords)
    length = min(size, int(torch.randint(crop // 2, crop + 1, (), generator=generator)))
    start = int(torch.randint(size - length + 1, (), generator=generator))
    known = torch.zeros(length, dtype=torch.bool)
    if float(torch.rand((), generator=generator)) < shares.motifs:
        known = draw_motif(length, generator)
    structure = item.structure[start : start + length]
    if float(torch.rand((), generator=generator)) >= shares.structures:
        structure = torch.full_like(structure, OPEN)
    place = torch.arange(length)
    ends = torch.stack((start + place, size - 1 - start - place), -1)
    return noised(item.coords[start : start + length], draw_level(generator), known, structure, ends, generator)


def draw_whole(item: Item, generator: torch.Generator, level: float) -> dict[str, Tensor]:
    """All of a chain at one noise level, with nothing given."""
    place = torch.arange(len(item.coords))
    nothing = torch.zeros(len(place), dtype=torch.bool)
    open_ = torch.full((len(place),), OPEN)
    return noised(item.coords, level, nothing, open_, torch.stack((place, place.flip(0)), -1), generator)


def draw_motif(length: int, generator: torch.Generator) -> Tensor:
    """(length,) bool: one or two stretches that are given, half of the chain at most each."""
    known = torch.zeros(length, dtype=torch.bool)
    for _ in range(int(torch.randint(1, 3, (), generator=generator))):
        part = int(torch.randint(min(SHORTEST_MOTIF, length // 4), length // 2, (), generator=generator))
        first = int(torch.randint(length - part + 1, (), generator=generator))
        known[first : first + part] = True
        if known.sum() > length // 3:
            break
    return known


def noised(
    coords: Tensor, level: float, known: Tensor, structure: Tensor, ends: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """A sample: a backbone (n, 4, 3), turned at random, with the noise of a level but for the known residues."""
    frames = frames_of(coords)
    turn = random_rotations(1, generator)[0]
    clean = Frames(turn @ frames.rotation, (frames.origin - frames.origin.mean(0)) @ turn.T)
    sigma = torch.full((len(coords),), level).masked_fill(known, KNOWN)
    one = torch.zeros(len(coords), dtype=torch.long)
    noisy = clean.where(known, add_noise(clean, sigma, one, ~known.any()[None], generator))
    return {
        "rotation": clean.rotation,
        "origin": clean.origin,
        "noisy_rotation": noisy.rotation,
        "noisy_origin": noisy.origin,
        "sigma": sigma,
        "known": known,
        "structure": structure,
        "ends": ends,
    }


def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Residues of all samples one after the other, and whose they are."""
    sizes = torch.tensor([len(sample["sigma"]) for sample in samples])
    joined = {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}
    return joined | {"batch": torch.arange(len(samples)).repeat_interleave(sizes)}


class Errors(NamedTuple):
    """How far an estimate is off, of each chain; 1 is what the Gaussian chain alone leaves, or no knowledge at all."""

    position: Tensor
    rotation: Tensor
    local: Tensor

    @property
    def total(self) -> Tensor:
        """(chains,), what is minimised."""
        return self.position + self.rotation + 0.5 * self.local


def errors_of(model: nn.Module, batch: dict[str, Tensor], again: bool) -> Errors:
    """Of an estimate of the clean frames; `again`: of a second one, that sees the first."""
    residues = Residues(batch["batch"], batch["known"], batch["structure"], batch["ends"])
    clean = Frames(batch["rotation"], batch["origin"])
    noisy, sigma = Frames(batch["noisy_rotation"], batch["noisy_origin"]), batch["sigma"]
    before = None
    if again:
        with torch.no_grad():
            before = model(noisy, sigma, residues).frames
    found, scale = model(noisy, sigma, residues, before)
    new = (~residues.known).to(sigma)
    position = (found.origin - clean.origin).square().mean(-1) / scale.square()
    # A heat kernel of width τ has E|R' − R|² = 6 (1 − exp(−τ²)).
    angle = angle_of(sigma)
    rotation = (found.rotation - clean.rotation).square().sum((-1, -2)) / (6 * -torch.expm1(-angle.square()) + 1e-3)

    ideal = residue(sigma.dtype, sigma.device).expand(len(sigma), 3, 3)
    atoms, true = found.apply(ideal), clean.apply(ideal)
    spread = scale.square() + angle.square() + 0.005
    local = torch.zeros_like(sigma)
    for apart in LOCAL:
        bound = (residues.batch[apart:] == residues.batch[:-apart]).to(sigma)
        off = (_distances(atoms, apart) - _distances(true, apart)).square().mean((-1, -2))
        off = off / (spread[apart:] + spread[:-apart])
        local = local + torch.cat((off * bound, off.new_zeros(apart))) / len(LOCAL)
    share = mean_of(new[:, None], residues.batch).clamp(min=1e-3)
    found_errors = mean_of(torch.stack((position, rotation, local), -1) * new[:, None], residues.batch) / share
    return Errors(*found_errors.unbind(-1))


def _distances(atoms: Tensor, apart: int) -> Tensor:
    """(n − apart, 3, 3) Å between the atoms (n, 3, 3) of residues so many apart."""
    return ((atoms[apart:, :, None] - atoms[:-apart, None]).square().sum(-1) + 1e-6).sqrt()


def denoising_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean over the chains; half of the time of a second estimate."""
    return errors_of(model, batch, again=bool(torch.rand(()) < 0.5)).total.mean()
