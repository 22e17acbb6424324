"""Attention by the distance of query and key."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.conv import rotate_back
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
        self.conv, self.to_own = self.make_messages(self.message, config)
        self.to_query = Linear(fiber, Fiber(h * c for h, c in zip(self.heads, self.message, strict=True)), bias=True)
        self.metric = nn.ParameterList(
            torch.ones(1 if config.single_headed_kv else h, c) for h, c in zip(self.heads, self.message, strict=True)
        )

    def forward(
        self, x: Float[Tensor, "points width"], graph: Graph
    ) -> tuple[Float[Tensor, "points width_out"], list[Tensor]]:
        x = self.norm(x)
        queries = self.to_query.fiber_out.split(self.to_query(x))
        messages = rotate_back(self.conv(x, graph), graph)
        own = None if self.to_own is None else self.message.split(self.to_own(x))

        spread, logits, own_logits = [], [], []
        for degree, message in enumerate(messages):
            metric = self.metric[degree]
            query = queries[degree].unflatten(-1, (self.heads[degree], -1)).transpose(1, 2)
            query = (query * metric[:, None]).flatten(2)
            scale = ((2 * degree + 1) * message.shape[-1]) ** -0.5
            spread.append(graph.neighbours.spread(message.flatten(1)))
            lengths = graph.neighbours.spread(message.square().sum(1) @ metric.square().T)
            logits.append((2 * torch.bmm(spread[-1], query.mT) - lengths) * scale)
            if own is not None:
                products = (query @ own[degree].flatten(1)[:, :, None]).squeeze(-1)
                own_logits.append((2 * products - own[degree].square().sum(1) @ metric.square().T) * scale)

        own_flat = None if own is None else [part.flatten(1) for part in own]
        return self.attend(x, graph, spread, own_flat, logits, own_logits if own is not None else None)
