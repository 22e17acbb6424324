"""Functions of the distance: basis, network, envelope."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def envelope(distance: Float[Tensor, " edges"], radius: float) -> Float[Tensor, " edges"]:
    r""":math:`u(x) = (1-x)^3 (1 + 3x + 6x^2 + 10x^3 + 15x^4 + 21x^5)` with x = distance/radius, 0 beyond.

    It is one at zero and reaches zero with two continuous derivatives (Gasteiger et al. 2020, eq. 8, p = 6),
    factored so that it stays positive and accurate near the radius.
    """
    x = (distance / radius).clamp(max=1)
    return (1 - x) ** 3 * (1 + x * (3 + x * (6 + x * (10 + x * (15 + x * 21)))))


class RadialNetwork(nn.Module):
    r"""Edge embedding from distance and edge features, shared by all layers.

    The distance enters as Gaussians of log(1 + d), evenly spaced between 0 and log(1 + 64): fine at bond lengths,
    coarse far away, whatever the unit; and as log(1 + d) itself, which tells far distances apart. Two linear
    layers with SiLU and layer norm follow.
    """

    basis = 24
    largest = 64.0

    def __init__(self, edge_dim: int, hidden: int) -> None:
        super().__init__()
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
        span = math.log1p(self.largest)
        log_distance = distance.log1p()[:, None]
        centres = torch.linspace(0, span, self.basis, device=distance.device, dtype=distance.dtype)
        # Clamped, since denormal numbers would slow every product down.
        gaussians = torch.exp((-((log_distance - centres) * (self.basis / span)).square() / 2).clamp(min=-40))
        dtype = self.first.weight.dtype
        inputs = [gaussians.to(dtype), log_distance.to(dtype)]
        if features is not None:
            inputs.append(features)
        return self.rest(self.first(torch.cat(inputs, dim=-1)))
