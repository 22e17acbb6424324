"""Attention by the distance of query and key."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear


class L2DistAttention(Attention):
    r"""Logits are minus the squared distance of query and key (Kim et al. 2020, eq. 8), per degree and head,

    .. math:: s_{ij}^h = -\lVert q_i^h - k_{ij}^h \rVert^2 / \sqrt{(2l+1)\,c}, \qquad k_{ij}^h = a^h \odot m_{ij},

    with one learned factor a per head and channel of the message m. The term in :math:`q^2` is the same for all
    slots and left out. Squared, the distance is smooth where query and key meet; the published package takes the
    unsquared one, whose gradient there is not defined.
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig) -> None:
        super().__init__(fiber, fiber_out, config)
        self.to_query = Linear(fiber, Fiber(h * self.channels for h in self.heads), bias=True)
        self.metric = nn.ParameterList(torch.ones(h, self.channels) for h in self.key_heads)

    def forward(
        self, x: Float[Tensor, "points width"], graph: Graph
    ) -> tuple[Float[Tensor, "points width_out"], list[Tensor]]:
        x = self.norm(x)
        orders, _ = self.conv(x, graph)
        messages = graph.neighbours.spread(graph.rotation.restore(orders).flatten(1))
        queries = self._queries(x)
        logits = self._logits(messages, queries)
        if self.to_own is None:
            return self.attend(x, graph, messages, logits, None, None)
        own = self.to_own(x)
        return self.attend(x, graph, messages, logits, own, self._logits(own[:, None], queries).squeeze(1))

    def _queries(self, x: Tensor) -> list[Float[Tensor, "points order_channels heads"]]:
        """2·q·a per degree, scaled: what the product with a message makes the mixed term of the distance."""
        queries = []
        for degree, part in enumerate(self.to_query.fiber_out.split(self.to_query(x))):
            scale = 2 * ((2 * degree + 1) * self.channels) ** -0.5
            by_head = part.unflatten(-1, (self.heads[degree], self.channels)) * (self.metric[degree] * scale)
            queries.append(by_head.transpose(2, 3).flatten(1, 2))
        return queries

    def _logits(
        self, messages: Float[Tensor, "points slots components_channels"], queries: list[Tensor]
    ) -> Float[Tensor, "points slots heads"]:
        """Of the heads of all degrees, side by side."""
        sizes = [(2 * degree + 1) * self.channels for degree in range(len(self.heads))]
        products = [torch.bmm(m, q) for m, q in zip(messages.split(sizes, dim=-1), queries, strict=True)]
        return torch.cat(products, dim=-1) - messages.square() @ self._lengths()

    def _lengths(self) -> Float[Tensor, "components_channels heads"]:
        """The matrix that takes squared components to the scaled squared lengths of the keys of all heads."""
        columns = []
        for degree, (metric, heads) in enumerate(zip(self.metric, self.heads, strict=True)):
            scale = ((2 * degree + 1) * self.channels) ** -0.5
            columns.append((metric.square() * scale).expand(heads, -1).repeat(1, 2 * degree + 1))
        return torch.block_diag(*columns).T
