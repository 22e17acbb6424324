"""The denoiser of backbones: an `Equiformer` on residues that sees their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equiformer_pytorch import Equiformer, chain_edges
from examples.backbones.geometry import Frames
from examples.backbones.process import ChainPrior, angle_of
from examples.backbones.rotations import from_two

STEPS = (1, 2, 3, 4, 8, 16, 32)
"""Along the chain, to either side: whom every residue hears."""
FARTHEST = 32
"""Residues apart along the chain that are told apart."""
STRUCTURES = "HE-"
"""Helix, strand, other: what may be asked for."""
OPEN = len(STRUCTURES)
"""The token of what is left open."""
SHELLS = (2.0, 22.0, 16)
"""First, last and number of the Gaussians in which distances are seen, Å."""
REACHES = (1, 4, 16, 64)
"""Residues, over which closeness to an end fades."""
EDGE_DIM = 32


class Residues(NamedTuple):
    """What is known of the residues (n,) of several chains, one after the other."""

    batch: Tensor
    """Which chain each residue is of."""
    known: Tensor
    """Residues whose frames are given, bool."""
    structure: Tensor
    """Place in `STRUCTURES`, or `OPEN`."""
    ends: Tensor
    """(n, 2) residues to the first and to the last of the protein; of a crop they lie outside."""

    @property
    def chains(self) -> int:
        """How many chains."""
        return int(self.batch[-1]) + 1

    @property
    def sizes(self) -> list[int]:
        """Residues of each chain."""
        return torch.bincount(self.batch, minlength=self.chains).tolist()


@dataclass(frozen=True)
class NetworkArguments:
    """Of :class:`BackboneNetwork`, as `settings.py` explains them."""

    dim: Sequence[int]
    depth: int
    heads: int
    dim_head: int
    linear_heads: int
    nearest: int
    random: int


class Estimate(NamedTuple):
    """What the network makes of noised frames."""

    frames: Frames
    scale: Tensor
    """(n,) Å, what the Gaussian chain alone would be off by, per coordinate."""


class BackboneNetwork(nn.Module):
    """Estimates the frames of residues from noised ones.

    The positions are those that the Gaussian chain of :class:`ChainPrior` estimates, plus what the network adds in
    units of the error of that; the rotations are shown by two vectors, to which the noised axes are added by as much
    as they tell. Edges see each end's frame from the other, which is all there is to know of two frames.
    """

    shells: Tensor

    def __init__(self, arguments: NetworkArguments) -> None:
        super().__init__()
        self.arguments = arguments
        dim = tuple(arguments.dim)
        self.prior = ChainPrior()
        self.register_buffer("shells", torch.linspace(*SHELLS), persistent=False)
        self.places = nn.Embedding(2 * FARTHEST + 2, 16)
        self.points = nn.Linear(4 + len(STRUCTURES) + 1 + 2 * len(REACHES), dim[0])
        self.edges = nn.Linear(16 + 2 * (15 + SHELLS[2]) + 6, EDGE_DIM)
        self.net = Equiformer(
            dim=dim,
            dim_in=(dim[0], 8),
            input_degrees=2,
            num_degrees=len(dim),
            depth=arguments.depth,
            heads=arguments.heads,
            dim_head=arguments.dim_head,
            edge_dim=EDGE_DIM,
            num_linear_attn_heads=arguments.linear_heads,
            l2_dist_attention=False,
            condition_dim=6,
            output_degrees=2,
            dim_out=(9, 3),
        )

    def forward(
        self,
        noisy: Frames,
        sigma: Tensor,
        residues: Residues,
        before: Frames | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Estimate:
        """Frames noised by σ (n,) Å each -> estimated frames. `before` is an earlier estimate (self-conditioning, Chen
        et al. 2023); `seeds`, one for each chain, make the random edges."""
        dtype = noisy.origin.dtype
        sizes = residues.sizes
        estimate = [self.prior(x, s) for x, s in zip(noisy.origin.split(sizes), sigma.split(sizes), strict=True)]
        mean, error, removed = (torch.cat(parts) for parts in zip(*estimate, strict=True))
        rest = noisy.origin - mean
        origin = mean + (error / removed).clamp(max=1)[:, None] * rest
        told = (-angle_of(sigma).square()).exp()
        seen = Frames(noisy.rotation, origin)
        edge_index, apart = self._connect(origin, residues, seeds)
        level = sigma.log() / 4
        points = self.points(
            torch.cat(
                (
                    torch.stack((level, told, residues.known.to(dtype), error.log() / 4), -1),
                    F.one_hot(residues.structure, len(STRUCTURES) + 1).to(dtype),
                    _waves(residues.ends.to(dtype)),
                ),
                -1,
            )
        )
        vectors = torch.cat(
            (
                noisy.rotation.mT,
                (rest / removed[:, None])[:, None],
                torch.zeros_like(noisy.rotation) if before is None else before.rotation.mT,
                torch.zeros_like(rest)[:, None]
                if before is None
                else ((before.origin - mean) / error[:, None])[:, None],
            ),
            1,
        )
        senders, receivers = edge_index
        relation = self._relation(seen, senders, receivers)
        edges = torch.cat(
            (
                self.places(apart.clamp(-FARTHEST - 1, FARTHEST) + FARTHEST + 1),
                relation,
                torch.zeros_like(relation) if before is None else self._relation(before, senders, receivers),
                torch.stack((level[senders], level[receivers], told[senders], told[receivers]), -1),
                residues.known.to(dtype)[edge_index].T,
            ),
            -1,
        )
        out = self.net(
            {0: points[..., None], 1: vectors},
            origin,
            batch=residues.batch,
            edge_index=edge_index,
            edge_attr=self.edges(edges),
            condition=self._condition(sigma, residues, before is not None),
        )
        local = out.type0.unflatten(-1, (3, 3)) @ noisy.rotation.mT
        shift, first, second = (out.type1 + local).unbind(-2)
        turned = (1 - told).sqrt()[:, None]
        axes = noisy.rotation.mT * told[:, None, None]
        found = from_two(axes[:, 0] + turned * first, axes[:, 1] + turned * second)
        frames = noisy.where(residues.known, Frames(found, mean + error[:, None] * shift))
        return Estimate(frames, error)

    def _connect(self, origin: Tensor, residues: Residues, seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """Edges of each chain, by a generator of its own."""
        found, start = [], 0
        seeds = torch.randint(2**31, (residues.chains,)).tolist() if seeds is None else seeds
        for points, seed in zip(origin.detach().split(residues.sizes), seeds, strict=True):
            generator = torch.Generator(origin.device).manual_seed(seed)
            edge_index, apart = chain_edges(
                points, steps=STEPS, nearest=self.arguments.nearest, random=self.arguments.random, generator=generator
            )
            found.append((edge_index + start, apart))
            start += len(points)
        return torch.cat([index for index, _ in found], 1), torch.cat([apart for _, apart in found])

    def _relation(self, frames: Frames, senders: Tensor, receivers: Tensor) -> Tensor:
        """(edges, 15 + shells): the direction from receiver to sender in the frames of both, the sender's axes in the
        receiver's, and the distance."""
        apart = frames.origin[senders] - frames.origin[receivers]
        distance = (apart.square().sum(-1, keepdim=True) + 1e-4).sqrt()
        own, other = frames.rotation[receivers], frames.rotation[senders]
        direction = (apart / distance)[:, None]
        width = (SHELLS[1] - SHELLS[0]) / (SHELLS[2] - 1)
        return torch.cat(
            (
                (direction @ own).squeeze(1),
                (direction @ other).squeeze(1),
                (own.mT @ other).flatten(1),
                ((distance - self.shells) / width).square().neg().exp(),
            ),
            -1,
        )

    def _condition(self, sigma: Tensor, residues: Residues, again: bool) -> Tensor:
        """(chains, 6): the noise, the length, how much is known, whether there is an estimate already."""
        size = torch.tensor(residues.sizes, dtype=sigma.dtype, device=sigma.device)
        total = sigma.new_zeros(residues.chains).index_add(0, residues.batch, residues.known.to(sigma))
        largest = sigma.new_zeros(residues.chains).scatter_reduce(0, residues.batch, sigma, "amax")
        level = largest.log() / 2
        return torch.stack(
            (
                level,
                level.sin(),
                level.cos(),
                size.log() - math.log(64),
                total / size,
                torch.full_like(size, float(again)),
            ),
            -1,
        )


def _waves(places: Tensor) -> Tensor:
    """(n, 2) residues from an end -> (n, 8), from fine to coarse."""
    return torch.cat([(-places / length).exp() for length in REACHES], -1)
