"""Equivariant nonlinearity."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.fiber import Fiber


class Gate(nn.Module):
    r""":math:`y_0 = \mathrm{SiLU}(x_0)`, :math:`y_l = x_l\,\sigma(g_l)`: invariants gate the channels of l ≥ 1.

    The gates come with degree 0: its channels are the :math:`c_0` values, then the :math:`\sum_{l\ge1} c_l` gates
    (:attr:`fiber_in`). Gating commutes with rotations, so it may be done in any frame.
    """

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.sizes = list(fiber)
        self.fiber_in = Fiber((sum(fiber), *fiber[1:]))

    def forward(self, parts: list[Float[Tensor, "points order channels"]]) -> list[Tensor]:
        invariants, *higher = parts
        values, *gates = invariants.split(self.sizes, dim=-1)
        return [F.silu(values), *(part * torch.sigmoid(gate) for part, gate in zip(higher, gates, strict=True))]
