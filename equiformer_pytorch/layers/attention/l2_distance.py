"""Attention by the distance of query and key."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear


class L2DistAttention(Attention):
    r"""Logits are minus the squared distance of query and key (Kim et al. 2020, eq. 8), per degree and head,

    .. math:: s_{ij}^h = -\lVert q_i^h - k_{ij}^h \rVert^2 / \sqrt{(2l+1)\,c}, \qquad k_{ij}^h = a^h \odot m_{ij},

    with one learned factor a per head and channel of the message m. The term in :math:`q^2` is the same for all
    slots and left out; what the linear map of the point gives is :math:`a \odot q`. Squared, the distance is smooth
    where query and key meet; the published package takes the unsquared one, whose gradient there is not defined.
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig) -> None:
        super().__init__(fiber, fiber_out, config)
        self.to_query = Linear(fiber, Fiber(h * self.channels for h in self.heads), bias=True)
        self.metric = nn.ParameterList(torch.ones(h, self.channels) for h in self.key_heads)

    def logits(
        self,
        x: Float[Tensor, "receivers width"],
        messages: Float[Tensor, "receivers slots components_channels"],
        invariants: Float[Tensor, "receivers slots logit_invariants"],
    ) -> Float[Tensor, "receivers heads slots"]:
        """As in the base class; asks for no invariants."""
        lengths = ((messages * messages) @ self._lengths()).mT.split(list(self.heads), dim=1)
        queries = self.to_query.fiber_out.split(self.to_query(x))
        logits = []
        for degree, message in enumerate(messages.split(self.columns, dim=-1)):
            query = queries[degree].unflatten(-1, (self.heads[degree], self.channels)).transpose(1, 2).flatten(2)
            scale = self.columns[degree] ** -0.5
            logits.append(torch.baddbmm(lengths[degree], query, message.mT, beta=-1, alpha=2 * scale))
        return torch.cat(logits, dim=1)

    def _lengths(self) -> Float[Tensor, "components_channels heads"]:
        """The matrix that takes squared components to the scaled squared lengths of the keys of all heads."""
        columns = []
        for degree, (metric, heads) in enumerate(zip(self.metric, self.heads, strict=True)):
            scaled = metric * metric * self.columns[degree] ** -0.5
            columns.append(scaled.expand(heads, -1).repeat(1, 2 * degree + 1))
        return torch.block_diag(*columns).T
