"""Attention by the distance of query and key."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.ops.attend import Distances


def logit_scales(heads: Sequence[int], columns: Sequence[int]) -> Float64[Tensor, " heads"]:
    """Of each head, 2/√(components · channels) of its degree."""
    scales = [2 * of_degree**-0.5 for of_degree, count in zip(columns, heads, strict=True) for _ in range(count)]
    return torch.tensor(scales, dtype=torch.float64)


class L2DistAttention(Attention):
    r"""Logits are minus the squared distance of query and key (Kim et al. 2020, eq. 8), per degree and head,

    .. math:: s_{ij}^h = -\lVert q_i^h - k_{ij}^h \rVert^2 / \sqrt{(2l+1)\,c}, \qquad k_{ij}^h = a^h \odot m_{ij},

    with one learned factor a per head and channel of the message m. The term in :math:`q^2` is the same for all
    slots and left out; what the linear map of the point gives is :math:`a \odot q`. Squared, the distance is smooth
    where query and key meet; the published package takes the unsquared one, whose gradient there is not defined.

    Args:
        fiber, fiber_out, config: as in :class:`Attention`.
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig) -> None:
        super().__init__(fiber, fiber_out, config)
        self.to_query = Linear(fiber, Fiber(h * self.channels for h in self.heads), bias=True)
        self.metric = nn.ParameterList(torch.ones(h, self.channels) for h in self.key_heads)
        self.constant("scale", logit_scales, self.heads, tuple(self.columns))
        self._plan()

    def logit_parameters(self) -> list[Tensor]:
        """The factors a of each degree."""
        return list(self.metric)

    def build_logits(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """a of all heads (columns) for the components of all degrees (rows), zero for those of other degrees."""
        columns = []
        for degree, (metric, heads) in enumerate(zip(parameters, self.heads, strict=True)):
            columns.append(metric.expand(heads, -1).repeat(1, 2 * degree + 1))
        return [torch.block_diag(*columns).mT]

    def compared(
        self,
        invariants: Float[Tensor, "receivers _slots logit_invariants"],
        query: Tensor | None,
        matrices: Sequence[Tensor],
    ) -> Distances:
        """As in the base class; asks for no invariants."""
        if query is None:
            raise ValueError("query is missing: the logits are distances to it")
        return Distances(query, matrices[0], self.cast("scale", matrices[0].dtype))
