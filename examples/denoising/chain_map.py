"""What a linear map that knows of the chain can do: a baseline, and where the network starts from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from examples.denoising.data import ATOMS, Backbone, fixed_noise


class ChainMap(nn.Module):
    r"""The displacement of each point by its neighbours along the chain,

    .. math:: d_p = \sum_{0 < |o| \le r} w_{a(p),\,o}\,(x_{p+o} - x_p),

    one weight per kind of atom a and offset o; scalars, so it is equivariant to rotations. Within a network they are
    trained on from where `fit` puts them.
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.offsets = [offset for offset in range(-reach, reach + 1) if offset]
        self.weights = nn.Parameter(torch.zeros(len(ATOMS), len(self.offsets)))

    @torch.no_grad()
    def fit(self, chains: Iterable[Backbone], noise: float) -> None:
        """By least squares, to chains with their fixed noise."""
        size = len(self.offsets)
        gram = torch.zeros(len(ATOMS), size, size, dtype=torch.float64)
        moment = torch.zeros(len(ATOMS), size, dtype=torch.float64)
        for chain in chains:
            drawn = fixed_noise(chain, noise)
            features = self._differences(chain.coords + drawn, chain.positions, chain.mask).double()
            target = -drawn.double() * chain.mask[:, None]
            atom = chain.tokens % len(ATOMS)
            gram.index_add_(0, atom, torch.einsum("pix,pjx->pij", features, features))
            moment.index_add_(0, atom, torch.einsum("pix,px->pi", features, target))
        ridge = 1e-6 * torch.eye(size, dtype=torch.float64)
        self.weights.copy_(torch.linalg.solve(gram + ridge, moment))

    def forward(self, tokens: Tensor, coords: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """tokens, positions, mask (…, n), coords (…, n, 3) in Å -> displacements (…, n, 3)."""
        weights = self.weights[tokens % len(ATOMS)]
        return torch.einsum("...i,...ix->...x", weights, self._differences(coords, positions, mask))

    def _differences(self, coords: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """x_(p+o) - x_p for each offset o along the chain, zero where it has no such atom: (…, n, offsets, 3)."""
        differences = []
        for offset in self.offsets:
            there = mask & mask.roll(-offset, -1) & (positions.roll(-offset, -1) - positions == offset)
            differences.append((coords.roll(-offset, -2) - coords) * there[..., None])
        return torch.stack(differences, -2)
