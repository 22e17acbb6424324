"""Functions of the distance: basis, network, envelope."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants


class Envelope(ExactConstants):
    r"""The polynomial :math:`1 - \tfrac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \tfrac{p(p+1)}{2} x^{p+2}` of
    x = distance/cutoff, 0 beyond (Gasteiger et al. 2020, equation 8).

    It is one at zero and reaches zero with two continuous derivatives. Computed as
    :math:`(1-x)^3 \sum_{k<p} \tfrac{(k+1)(k+2)}{2} x^k`, so that it stays positive and accurate near the cutoff.
    """

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.constant("coefficients", triangular_numbers, exponent)

    def forward(self, distance: Float[Tensor, " edges"], cutoff: float) -> Float[Tensor, " edges"]:
        x = (distance / cutoff).clamp(max=1)
        *coefficients, polynomial = self.cast("coefficients", x.dtype).unbind()
        for coefficient in reversed(coefficients):
            polynomial = torch.addcmul(coefficient, x, polynomial)
        return (1 - x) ** 3 * polynomial


def triangular_numbers(count: int) -> Float64[Tensor, " count"]:
    """1, 3, 6, 10, …"""
    return torch.tensor([(k + 1) * (k + 2) / 2 for k in range(count)], dtype=torch.float64)


def evenly_spaced(first: float, last: float, count: int) -> Float64[Tensor, " count"]:
    """Numbers from the first to the last."""
    return torch.linspace(first, last, count, dtype=torch.float64)


class RadialNetwork(ExactConstants):
    r"""Edge embedding from distance and edge features, shared by all layers.

    The distance enters as Gaussians of log(1 + d), evenly spaced between 0 and log(1 + 64): fine at bond lengths,
    coarse far away, whatever the unit; and as log(1 + d) itself, which tells far distances apart. Two linear
    layers with SiLU and layer norm follow.
    """

    basis = 24
    largest = 64.0

    def __init__(self, edge_dim: int, hidden: int) -> None:
        super().__init__()
        span = math.log1p(self.largest)
        self.per_width = self.basis / span * 0.5**0.5
        self.constant("centres", evenly_spaced, 0.0, -span * self.per_width, self.basis)
        self.first = nn.Linear(self.basis + 1 + edge_dim, hidden)
        self.rest = nn.Sequential(
            nn.SiLU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.LayerNorm(hidden),
        )

    def forward(
        self, distance: Float[Tensor, " edges"], features: Float[Tensor, "edges edge_dim"] | None
    ) -> Float[Tensor, "edges hidden"]:
        log_distance = distance.log1p()[:, None]
        # Half the square of (log d − centre) / width; clamped, since denormal numbers would slow every product down.
        scaled: Tensor = torch.add(self.cast("centres", distance.dtype), log_distance, alpha=self.per_width)
        gaussians = scaled.square().neg().clamp(min=-40).exp()
        dtype = self.first.weight.dtype
        inputs = [gaussians.to(dtype), log_distance.to(dtype)]
        if features is not None:
            inputs.append(features)
        return self.rest(self.first(torch.cat(inputs, dim=-1)))
