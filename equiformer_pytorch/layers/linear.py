"""Equivariant linear maps: one matrix per degree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.fiber import Fiber, join


class Linear(nn.Module):
    r""":math:`y_l = x_l W_l` for every degree, and a bias for degree 0, the only degree that may have one.

    Weights start as :math:`N(0, 1/c_\mathrm{in})`, or at zero with `zero`. Degrees of `fiber_out` beyond those of
    `fiber_in` would be zero: they are refused.

    Args:
        fiber_in, fiber_out: channels per degree, of what comes in and goes out.
        bias: of degree 0.
        zero: start at zero.

    Raises:
        ValueError: `fiber_out` has degrees that `fiber_in` has not.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber, *, bias: bool = False, zero: bool = False) -> None:
        super().__init__()
        if len(fiber_out) > len(fiber_in):
            raise ValueError(f"fiber_out has degrees that fiber_in lacks: {fiber_out} from {fiber_in}")
        self.fiber_in, self.fiber_out = fiber_in, fiber_out
        self.weights = nn.ParameterList(
            torch.zeros(c_in, c_out) if zero else torch.randn(c_in, c_out) * c_in**-0.5
            for c_in, c_out in zip(fiber_in, fiber_out, strict=False)
        )
        self.bias = nn.Parameter(torch.zeros(fiber_out[0])) if bias else None

    def forward(self, x: Float[Tensor, "points width_in"]) -> Float[Tensor, "points width_out"]:
        """Features of `fiber_in` to features of `fiber_out`."""
        parts = [part @ weight for part, weight in zip(self.fiber_in.split(x), self.weights, strict=False)]
        if self.bias is not None:
            parts[0] = parts[0] + self.bias
        return join(parts)


def block_diagonal(weights: Sequence[Tensor], rows: int) -> Float[Tensor, "rows columns"]:
    """The matrices of the degrees, each once per order, on the diagonal of one; zeros in the rows that are left."""
    blocks = [weight for degree, weight in enumerate(weights) for _ in range(2 * degree + 1)]
    matrix = torch.block_diag(*blocks)
    return F.pad(matrix, (0, 0, 0, rows - matrix.shape[0]))
