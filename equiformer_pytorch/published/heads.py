"""What is read out of the features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.published.feedforward import FeedForward
from equiformer_pytorch.published.linear import linear


class ScalarFeedForward(nn.Module):
    """Linear map, SiLU, linear map of invariants."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = linear(channels, hidden), linear(hidden, 1)

    def forward(self, x: Float[Tensor, "atoms channels"]) -> Float[Tensor, "atoms 1"]:
        return self.linear_2(F.silu(self.linear_1(x)))


def mean_of_structures(
    values: Float[Tensor, "atoms columns"], batch: Int[Tensor, " atoms"], structures: int
) -> Float[Tensor, "structures columns"]:
    """Over the atoms of each structure; zero where there are none."""
    sums = values.new_zeros(structures, values.shape[1]).index_add(0, batch, values)
    sizes = batch.new_zeros(structures).index_add(0, batch, torch.ones_like(batch)).clamp(min=1)
    return sums / sizes[:, None]


def symmetric_tensors() -> Float[Tensor, "components 9"]:
    """The 3 × 3 matrices, row after row, that the components of degrees 0 and 2 stand for; degree 1 is left out."""
    x, y, z = torch.eye(3, dtype=torch.float64)

    def symmetric(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] * b + b[:, None] * a) / 2**0.5

    axial = (2 * y[:, None] * y - x[:, None] * x - z[:, None] * z) / 6**0.5
    planar = (z[:, None] * z - x[:, None] * x) / 2**0.5
    matrices = [torch.eye(3, dtype=torch.float64) / 3**0.5, *torch.zeros(3, 3, 3, dtype=torch.float64)]
    matrices += [symmetric(x, z), symmetric(x, y), axial, symmetric(y, z), planar]
    return torch.stack(matrices).flatten(1)


class StressHead(FeedForward):
    """Feed-forward network with a gate; the mean over the atoms of a structure of its degrees 0 and 2, as a symmetric
    3 × 3 matrix."""

    def __init__(self, channels: int, hidden: int, max_degree: int) -> None:
        super().__init__(
            channels, hidden, 1, max_degree, None, "gate", grid_mlp=False, bias_rank=3, keep=(0, min(max_degree + 1, 3))
        )
        self.constant("tensors", symmetric_tensors)

    def of_structures(
        self, x: Float[Tensor, "atoms components channels"], batch: Int[Tensor, " atoms"], structures: int
    ) -> Float[Tensor, "structures 9"]:
        y = mean_of_structures(self(x).squeeze(-1), batch, structures)
        return y @ self.cast("tensors", y.dtype)
