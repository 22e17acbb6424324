"""Linear maps of features, one matrix per degree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.so3.rows import split_degrees


def per_degree(
    parts: Sequence[Float[Tensor, "points _orders channels"]],
    weight: Float[Tensor, "degrees out channels"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "points components out"]:
    """The matrix of each degree times the features of that degree; a bias for the invariants.

    A part without orders takes no work, and the gradients of its matrix are zero.
    """
    matrices = weight.unbind(0)
    mapped = [F.linear(part, matrices[l], bias if l == 0 else None) for l, part in enumerate(parts)]
    return torch.cat(mapped, dim=1)


class DegreeLinear(nn.Module):
    """One matrix per degree, and a bias for the invariants.

    Args:
        bias_rank: of the bias parameter; EquiformerV3's files have (1, 1, out).
        normal: initialise from a normal distribution of variance 1/in, not a uniform one of a third of that.
    """

    def __init__(
        self, channels_in: int, channels_out: int, max_degree: int, *, bias_rank: int = 1, normal: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_degree + 1, channels_out, channels_in))
        self.bias = nn.Parameter(torch.zeros((1,) * (bias_rank - 1) + (channels_out,)))
        init_linear(self.weight, normal)

    def forward(self, x: Float[Tensor, "points components channels"]) -> Float[Tensor, "points components out"]:
        return self.of_parts(split_degrees(x, self.weight.shape[0] - 1))

    def of_parts(
        self, parts: Sequence[Float[Tensor, "points _orders channels"]]
    ) -> Float[Tensor, "points components out"]:
        """Of one tensor per degree; see :func:`per_degree`."""
        return per_degree(parts, self.weight, self.bias.flatten())


def init_linear(weight: Tensor, normal: bool) -> None:
    """As published: N(0, 1/in) or U(±1/√in)."""
    bound = weight.shape[-1] ** -0.5
    if normal:
        nn.init.normal_(weight, 0.0, bound)
    else:
        nn.init.uniform_(weight, -bound, bound)


def linear(channels_in: int, channels_out: int, *, bias: bool = True, normal: bool = False) -> nn.Linear:
    """A plain linear map, initialised as published, bias zero."""
    made = nn.Linear(channels_in, channels_out, bias=bias)
    init_linear(made.weight, normal)
    if bias:
        nn.init.zeros_(made.bias)
    return made
