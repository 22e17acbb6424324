"""The denoiser of backbones: an `Equiformer` on residues that sees their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
"""Helix, strand, other: what may be asked for; one more token for what is left open."""
SHELLS = torch.linspace(2.0, 22.0, 16)
"""Å, centres of the basis in which distances of the former estimate are seen."""


class Chains(NamedTuple):
    """Residues (n,) of several chains, one after the other, and what is known of them."""

    batch: Tensor
    """Which chain each residue is of."""
    known: Tensor
    """Residues whose frames are given, bool."""
    structure: Tensor
    """Place in `STRUCTURES`, or 3 where it is left open."""
    ends: Tensor
    """(n, 2) residues to the first and to the last of the protein; of a crop they lie outside."""

    @property
    def count(self) -> int:
        """How many chains."""
        return int(self.batch[-1]) + 1

    @property
    def sizes(self) -> list[int]:
        """Residues of each chain."""
        return torch.bincount(self.batch, minlength=self.count).tolist()


class BackboneNetwork(nn.Module):
    """Estimates the frames of residues from noised ones.

    The positions are those that the Gaussian chain of :class:`ChainPrior` estimates, plus what the network adds in units
    of the error of that; the rotations are shown by two vectors, to which the noised axes are added by as much as they
    tell. Edges see each end's frame from the other, which is all there is to know of two frames.
    """

    def __init__(
        self,
        dim: Sequence[int],
        depth: int,
        heads: int,
        dim_head: int,
        linear_heads: int,
        nearest: int,
        random: int,
        l2_attention: bool,
        hidden: int,
    ) -> None:
        super().__init__()
        self.nearest, self.random = nearest, random
        self.prior = ChainPrior()
        self.register_buffer("shells", SHELLS, persistent=False)
        self.places = nn.Embedding(2 * FARTHEST + 2, 16)
        self.points = nn.Linear(4 + len(STRUCTURES) + 1 + 2 * 4, dim[0])
        edge_dim = 32
        self.edges = nn.Linear(16 + 2 * (15 + len(SHELLS)) + 6, edge_dim)
        self.net = Equiformer(
            dim=tuple(dim),
            dim_in=(dim[0], 8),
            input_degrees=2,
            num_degrees=len(dim),
            depth=depth,
            heads=heads,
            dim_head=dim_head,
            edge_dim=edge_dim,
            radial_hidden_dim=hidden,
            num_linear_attn_heads=linear_heads,
            l2_dist_attention=l2_attention,
            condition_dim=6,
            output_degrees=2,
            dim_out=(9, 3),
            norm_out=True,
        )

    def forward(
        self, noisy: Frames, sigma: Tensor, chains: Chains, before: Frames | None = None, seeds: Sequence[int] | None = None
    ) -> Frames:
        """Frames noised by σ (n,) Å each -> estimated frames. `before` is an earlier estimate (self-conditioning, Chen et
        al. 2023); `seeds`, one for each chain, make the random edges."""
        dtype = noisy.origin.dtype
        estimate = [self.prior(x, s) for x, s in zip(noisy.origin.split(chains.sizes), sigma.split(chains.sizes), strict=True)]
        mean, error, removed = (torch.cat(parts) for parts in zip(*estimate, strict=True))
        rest = noisy.origin - mean
        origin = mean + (error / removed).clamp(max=1)[:, None] * rest
        told = (-angle_of(sigma).square()).exp()
        seen = Frames(noisy.rotation, origin)
        edge_index, apart = self._connect(origin, chains, seeds)
        previous = seen if before is None else before
        level = sigma.log() / 4
        points = self.points(
            torch.cat(
                (
                    torch.stack((level, told, chains.known.to(dtype), error.log() / 4), -1),
                    F.one_hot(chains.structure, len(STRUCTURES) + 1).to(dtype),
                    _waves(chains.ends.to(dtype)),
                ),
                -1,
            )
        )
        vectors = torch.cat(
            (
                noisy.rotation.mT,
                (rest / removed[:, None])[:, None],
                torch.zeros_like(noisy.rotation) if before is None else before.rotation.mT,
                torch.zeros_like(rest)[:, None] if before is None else ((before.origin - mean) / error[:, None])[:, None],
            ),
            1,
        )
        senders, receivers = edge_index
        edges = torch.cat(
            (
                self.places(apart.clamp(-FARTHEST - 1, FARTHEST) + FARTHEST + 1),
                self._relation(seen, senders, receivers),
                self._relation(previous, senders, receivers) * (before is not None),
                torch.stack((level[senders], level[receivers], told[senders], told[receivers]), -1),
                chains.known.to(dtype)[edge_index].T,
            ),
            -1,
        )
        out = self.net(
            {0: points[..., None], 1: vectors},
            origin,
            batch=chains.batch,
            edge_index=edge_index,
            edge_attr=self.edges(edges),
            condition=self._condition(sigma, chains, before is not None),
        )
        local = out.type0.unflatten(-1, (3, 3)) @ noisy.rotation.mT
        shift, first, second = (out.type1 + local).unbind(-2)
        turned = (1 - told).sqrt()[:, None]
        axes = noisy.rotation.mT * told[:, None, None]
        found = from_two(axes[:, 0] + turned * first, axes[:, 1] + turned * second)
        return noisy.where(chains.known, Frames(found, mean + error[:, None] * shift))

    def _connect(self, origin: Tensor, chains: Chains, seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """Edges of each chain, by a generator of its own."""
        found, start = [], 0
        seeds = torch.randint(2**31, (chains.count,)).tolist() if seeds is None else seeds
        for points, seed in zip(origin.detach().split(chains.sizes), seeds, strict=True):
            generator = torch.Generator(origin.device).manual_seed(seed)
            edge_index, apart = chain_edges(
                points, steps=STEPS, nearest=self.nearest, random=self.random, generator=generator
            )
            found.append((edge_index + start, apart))
            start += len(points)
        return torch.cat([index for index, _ in found], 1), torch.cat([apart for _, apart in found])

    def _relation(self, frames: Frames, senders: Tensor, receivers: Tensor) -> Tensor:
        """(edges, 15 + shells): each end's direction to the other in its own frame, the sender's axes in the receiver's,
        and the distance."""
        apart = frames.origin[senders] - frames.origin[receivers]
        distance = (apart.square().sum(-1, keepdim=True) + 1e-4).sqrt()
        own, other = frames.rotation[receivers], frames.rotation[senders]
        direction = (apart / distance)[:, None]
        return torch.cat(
            (
                (direction @ own).squeeze(1),
                (direction @ other).squeeze(1),
                (own.mT @ other).flatten(1),
                (-(((distance - self.shells) / (SHELLS[1] - SHELLS[0])).square())).exp(),
            ),
            -1,
        )

    def _condition(self, sigma: Tensor, chains: Chains, again: bool) -> Tensor:
        """(chains, 6): the noise, the length, how much is known, whether there is an estimate already."""
        size = torch.tensor(chains.sizes, dtype=sigma.dtype, device=sigma.device)
        total = sigma.new_zeros(chains.count).index_add(0, chains.batch, chains.known.to(sigma))
        largest = sigma.new_zeros(chains.count).scatter_reduce(0, chains.batch, sigma, "amax")
        level = largest.log() / 2
        return torch.stack(
            (level, level.sin(), level.cos(), size.log() - math.log(64), total / size, torch.full_like(size, float(again))), -1
        )


def _waves(places: Tensor) -> Tensor:
    """(n, 2) residues from an end -> (n, 8), from fine to coarse."""
    return torch.cat([(-places / length).exp() for length in (1, 4, 16, 64)], -1)
