"""The diffusion of chains of rigid residues: noise, what a Gaussian chain makes of it, and one step back."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from examples.backbones.geometry import Frames
from examples.backbones.rotations import UNIFORM, HeatKernel, exponential, logarithm

LEVER = 1.5
"""Å from CA to its N and C: what turns a noise of positions into one of rotations that moves these atoms as far."""
LOWEST, HIGHEST = 0.1, 60.0
"""Å, the range of noise levels. Far below a bond's spread; far above the size of a protein."""
KNOWN = 0.01
"""Å, the noise of residues that are given."""


def angle_of(sigma: Tensor) -> Tensor:
    """The width τ of the heat kernel, in radians, beside a noise of σ Å per coordinate of the position."""
    return (sigma / LEVER).clamp(max=UNIFORM)


class ChainPrior(torch.nn.Module):
    r"""A Gaussian chain: each coordinate of the CA has the covariance

    .. math:: C_{ij} = \sum_k \big(w_k + w'_k (1 + s / \ell_k)\big) e^{-s / \ell_k},
        \qquad s = |i - j|, \quad \ell_k = 1, 2, 4, …, 64, \quad w_k, w'_k \ge 0,

    and its place in space is unknown. The best linear denoiser under it is what the network corrects, so that the
    network starts from a chain at every noise level, and residues that are known hold the others.
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lengths = 2.0 ** torch.arange(7, dtype=torch.float64)
        self.register_buffer("weights", torch.full((14,), 4.0, dtype=torch.float64))

    def fit(self, mean_squares: Tensor) -> None:
        """To the mean squared distances of residues 1, 2, … apart (Å²), by least squares without negative weights."""
        from scipy.optimize import nnls

        apart = torch.arange(1, len(mean_squares) + 1, dtype=torch.float64)
        columns = 6 * (1 - self._shapes(apart))
        scale = 1 / mean_squares.double()  # near ones count as much as far ones
        found, _ = nnls((columns * scale[:, None]).numpy(), (mean_squares.double() * scale).numpy())
        self.weights.copy_(torch.from_numpy(found))

    def covariance(self, size: int) -> Tensor:
        """(size, size), Å², of one coordinate, float64."""
        apart = (torch.arange(size)[:, None] - torch.arange(size)).abs().double()
        return self._shapes(apart) @ self.weights.cpu()

    def _shapes(self, apart: Tensor) -> Tensor:
        """(…, 14): of a chain that is rough, and of one that is smooth, for each length."""
        share = apart[..., None] / self.lengths
        return torch.cat(((-share).exp(), (1 + share) * (-share).exp()), -1)

    def forward(self, noisy: Tensor, sigma: Tensor) -> ChainEstimate:
        """Of one chain: positions (n, 3) noised by σ (n,) each."""
        noise = sigma.double().square().cpu()
        inverse = torch.linalg.inv(self.covariance(len(noise)) + noise.diag())
        # As if the place of the chain had an infinite variance beside: what is left knows of differences only.
        of_place = inverse.sum(1)
        inverse = inverse - of_place[:, None] * of_place / of_place.sum()
        left = noise[:, None] * inverse * noise  # covariance of noisy − mean
        mean = noisy.double().cpu() - (noise[:, None] * inverse) @ noisy.double().cpu()
        removed = left.diagonal().clamp(min=1e-12)
        error = (noise - removed).clamp(min=1e-8)
        return ChainEstimate(*(value.to(noisy) for value in (mean, error.sqrt(), removed.sqrt())))


class ChainEstimate(NamedTuple):
    """What the Gaussian chain says of noised positions."""

    mean: Tensor
    """(n, 3) Å."""
    error: Tensor
    """(n,) Å, standard deviation of each coordinate about the mean."""
    removed: Tensor
    """(n,) Å, standard deviation of what the mean differs from the noised position by."""


KERNEL = HeatKernel()


def add_noise(
    frames: Frames, sigma: Tensor, batch: Tensor, free: Tensor, generator: torch.Generator | None = None
) -> Frames:
    """Frames of residues (n,), noised by σ (n,) Å and τ(σ); the mean of a structure without known residues stays.

    Args: `batch` (n,) the structure of each residue, `free` (structures,) whether all its residues are noised alike.
    """
    drawn = torch.randn(frames.origin.shape, generator=generator).to(frames.origin)
    drawn = drawn - free[batch, None] * mean_of(drawn, batch)[batch]
    turn = KERNEL.draw(angle_of(sigma), generator).to(frames.rotation)
    return Frames(frames.rotation @ turn, frames.origin + sigma[:, None] * drawn)


def mean_of(values: Tensor, batch: Tensor) -> Tensor:
    """(structures, …) of (n, …)."""
    structures = int(batch[-1]) + 1 if len(batch) else 0
    count = torch.bincount(batch, minlength=structures).to(values).clamp(min=1)
    return values.new_zeros(structures, *values.shape[1:]).index_add(0, batch, values) / count[:, None]


def step_back(
    noisy: Frames, clean: Frames, sigma: float, lower: float, heat: float, generator: torch.Generator | None = None
) -> Frames:
    r"""From the noise level σ to a lower one, given an estimate x̂ of the clean frames, as the exact posterior has it,

    .. math:: x' = \hat x + (\sigma'/\sigma)^2 (x - \hat x) + h \, \sigma' \sqrt{1 - (\sigma'/\sigma)^2} \, \epsilon,

    and rotations the same along the geodesic. With heat h = 1 that is ancestral sampling (Ho et al. 2020); less makes
    what is likely likelier, and samples less diverse.
    """
    drawn = torch.randn(noisy.origin.shape, generator=generator).to(noisy.origin)
    origin = clean.origin + (lower / sigma) ** 2 * (noisy.origin - clean.origin) + heat * fresh(sigma, lower) * drawn
    wide, narrow = (float(angle_of(torch.tensor(level))) for level in (sigma, lower))
    uniform = narrow >= UNIFORM  # nothing is known of rotations yet
    width = UNIFORM if uniform else heat * fresh(wide, narrow)
    walk = KERNEL.draw(torch.full((len(drawn),), width), generator).to(noisy.rotation)
    if uniform:
        return Frames(clean.rotation @ walk, origin)
    turn = exponential((narrow / wide) ** 2 * logarithm(clean.rotation.mT @ noisy.rotation))
    return Frames(clean.rotation @ turn @ walk, origin)


def fresh(level: float, lower: float) -> float:
    """Standard deviation of the noise that a step adds."""
    return lower * math.sqrt(max(1 - (lower / level) ** 2, 0.0))
