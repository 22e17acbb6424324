"""Random drops that keep equivariance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.so3.rows import degree_index


class GraphDropPath(nn.Module):
    """Leaves the branch out for whole structures, with probability `rate`; what stays is divided by 1 − rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(
        self, x: Float[Tensor, "points components channels"], batch: Int[Tensor, " points"], structures: int
    ) -> Float[Tensor, "points components channels"]:
        if not self.training or self.rate == 0.0:
            return x
        kept = F.dropout(x.new_ones(structures), self.rate)
        return x * kept[batch][:, None, None]


class EquivariantDropout(nn.Module):
    """Drops whole channels: in all degrees at once (EquivariantV2), or each degree by itself with `by_degree` (V3)."""

    def __init__(self, rate: float, max_degree: int, *, by_degree: bool) -> None:
        super().__init__()
        self.rate, self.max_degree, self.by_degree = rate, max_degree, by_degree

    def forward(self, x: Float[Tensor, "points components channels"]) -> Float[Tensor, "points components channels"]:
        if not self.training or self.rate == 0.0:
            return x
        kept = F.dropout(x.new_ones(x.shape[0], self.max_degree + 1 if self.by_degree else 1, x.shape[2]), self.rate)
        if self.by_degree:
            kept = kept[:, torch.tensor(degree_index(self.max_degree), device=x.device)]
        return x * kept
