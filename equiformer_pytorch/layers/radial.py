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

    Args:
        exponent: p.
    """

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.constant("coefficients", triangular_numbers, exponent)

    def forward(self, distance: Float[Tensor, " edges"], cutoff: float) -> Float[Tensor, " edges"]:
        """Weights between one and zero, in the dtype of the distances, which have the unit of the cutoff."""
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


class LogBasis(ExactConstants):
    """24 Gaussians of log(1 + d), evenly spaced between 0 and log(1 + 64): finer near than far away, whatever the unit.
    And log(1 + d) itself, which tells far distances apart."""

    count = 24
    largest = 64.0

    def __init__(self) -> None:
        super().__init__()
        span = math.log1p(self.largest)
        self.width = self.count + 1
        self.per_width = self.count / span * 0.5**0.5
        self.constant("centres", evenly_spaced, 0.0, -span * self.per_width, self.count)

    def forward(self, distance: Float[Tensor, " edges"]) -> Float[Tensor, "edges width"]:
        """The values of the basis, in the dtype of the distances."""
        log_distance = distance.log1p()[:, None]
        found = gaussians(log_distance, self.cast("centres", distance.dtype), self.per_width)
        return torch.cat((found, log_distance), dim=1)


class EvenBasis(ExactConstants):
    """32 Gaussians of the distance, evenly spaced between 0 and the cutoff and about as wide as they are apart: at 5 Å
    fine enough to tell kinds of bonds apart.

    Args:
        cutoff: in the unit of the distances.
    """

    count = 32

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.width = self.count
        self.per_width = self.count / cutoff * 0.5**0.5
        self.constant("centres", evenly_spaced, 0.0, -cutoff * self.per_width, self.count)

    def forward(self, distance: Float[Tensor, " edges"]) -> Float[Tensor, "edges width"]:
        """The values of the basis, in the dtype of the distances."""
        return gaussians(distance[:, None], self.cast("centres", distance.dtype), self.per_width)


def gaussians(
    x: Float[Tensor, "edges 1"], centres: Float[Tensor, " count"], per_width: float
) -> Float[Tensor, "edges count"]:
    """exp(−(x · per_width + centres)²), which is half the square over the width. Clamped, since denormal numbers would
    slow every product down."""
    scaled: Tensor = torch.add(centres, x, alpha=per_width)
    return scaled.square().neg().clamp(min=-40).exp()


RADIAL_BASES = ("log", "even")


class RadialNetwork(nn.Module):
    """Edge embedding from distance and edge features, shared by all layers: a basis of the distance (:class:`LogBasis`,
    :class:`EvenBasis`) and the features, through two linear layers with SiLU and layer norm.

    Args:
        edge_dim: width of the edge features, 0 for none.
        hidden: width of the embedding.
        basis: of the distance.
    """

    def __init__(self, edge_dim: int, hidden: int, basis: LogBasis | EvenBasis) -> None:
        super().__init__()
        self.basis = basis
        self.first = nn.Linear(basis.width + edge_dim, hidden)
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
        """An embedding of each edge, in the dtype of the weights; `features` are those of width `edge_dim`."""
        of_distance = self.basis(distance).to(self.first.weight.dtype)
        return self.rest(self.first(of_distance if features is None else torch.cat((of_distance, features), dim=-1)))
