"""Attention by a small network of the message."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig, message_channels
from equiformer_pytorch.layers.fiber import Fiber, join


class MLPAttention(Attention):
    r"""Logits from invariants of the message, as in GATv2 and Equiformer (Liao & Smidt 2023, section 4.2),

    .. math:: s_{ij}^h = w_h \cdot \mathrm{LeakyReLU}(z_{ij}^h), \qquad
        m_{ij,0} = \mathrm{SiLU}(\tilde m_{ij,0}), \quad m_{ij,l} = \tilde m_{ij,l}\,\sigma(g_{ij,l}),

    where one convolution gives the message m̃, its gates g and `attn_hidden_dim_mult` invariants z per head. Gated
    values are as in Equiformer; its second tensor product is left out. With `single_headed_kv` the heads of a degree
    share their logits' invariants, not their weights w.
    """

    def __init__(
        self,
        fiber: Fiber,
        fiber_out: Fiber,
        config: AttentionConfig,
        *,
        attn_leakyrelu_slope: float = 0.1,
        attn_hidden_dim_mult: int = 4,
    ) -> None:
        degrees = len(fiber_out)
        hidden_heads = (1,) * degrees if config.single_headed_kv else config.heads[:degrees]
        self.hidden = [h * attn_hidden_dim_mult for h in hidden_heads]
        self.gates = (degrees - 1) * message_channels(fiber_out, config)
        super().__init__(fiber, fiber_out, config, invariants=sum(self.hidden) + self.gates)
        self.slope = attn_leakyrelu_slope
        self.to_logits = nn.ParameterList(
            torch.randn(h, attn_hidden_dim_mult) * attn_hidden_dim_mult**-0.5 for h in self.heads
        )

    def messages_and_logits(
        self, x: Float[Tensor, "receivers width"], sender: Float[Tensor, "points wide"], graph: Graph
    ) -> tuple[Float[Tensor, "receivers slots components_channels"], Float[Tensor, "receivers heads slots"]]:
        """As in the base class."""
        orders, invariants = self.conv(x, sender, graph)
        logits, gates = self._logits_and_gates(invariants, orders[0][:, 0, 0])
        gated = [order * gates[:, None, m:] for m, order in enumerate(orders)]
        edges = graph.rotation.restore(gated).flatten(1)
        own, own_logits = None, None
        if self.to_own is not None:
            scalars, *higher = self.own_fiber.split(self.to_own(x))
            invariants, scalars = scalars.squeeze(1).split([invariants.shape[-1], self.channels], dim=-1)
            own_logits, gates = self._logits_and_gates(invariants, scalars)
            own = join([part * gates[:, d : d + 1] for d, part in enumerate([scalars[:, None], *higher])])
        return self.slots(edges, own, graph), self.slots(logits, own_logits, graph).mT

    def _logits_and_gates(
        self, invariants: Float[Tensor, "members invariants"], scalars: Float[Tensor, "members channels"]
    ) -> tuple[Float[Tensor, "members heads"], Float[Tensor, "members degrees channels"]]:
        """Logits of the heads of all degrees, and the factors of each degree; the scalars gate themselves (SiLU)."""
        *hidden, gates = invariants.split([*self.hidden, self.gates], dim=-1)
        logits = [
            (F.leaky_relu(z, self.slope).unflatten(-1, (-1, weight.shape[-1])) * weight).sum(-1)
            for z, weight in zip(hidden, self.to_logits, strict=True)
        ]
        factors = torch.sigmoid(torch.cat((scalars, gates), dim=-1)).unflatten(-1, (-1, self.channels))
        return torch.cat(logits, dim=-1), factors
