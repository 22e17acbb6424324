"""Attention by a small network of the message."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.conv import rotate_back
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.gate import Gate


class MLPAttention(Attention):
    r"""Logits from the invariants of the message, as in GATv2 and Equiformer (Liao & Smidt 2023, section 4.2),

    .. math:: s_{ij}^h = w_h \cdot \mathrm{LeakyReLU}(z_{ij}^h), \qquad m_{ij} = \mathrm{Gate}(\tilde m_{ij}),

    where one convolution gives, besides the message m̃ with its gates, `attn_hidden_dim_mult` invariants z per head
    of every degree (each head's logit sees those of all heads of its degree). The gated values are as in Equiformer;
    their second tensor product is left out.
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
        super().__init__(fiber, fiber_out, config)
        self.slope = attn_leakyrelu_slope
        self.gate = Gate(self.message)
        self.hidden = [h * attn_hidden_dim_mult for h in self.heads]
        gated = self.gate.fiber_in
        self.raw = Fiber((sum(self.hidden) + gated[0], *gated[1:]))
        self.conv, self.to_own = self.make_messages(self.raw, config)
        self.to_logits = nn.ParameterList(
            torch.randn(hidden, h) * hidden**-0.5 for hidden, h in zip(self.hidden, self.heads, strict=True)
        )

    def forward(
        self, x: Float[Tensor, "points width"], graph: Graph
    ) -> tuple[Float[Tensor, "points width_out"], list[Tensor]]:
        x = self.norm(x)
        logits, messages = self._logits_and_values(self.conv(x, graph))
        spread = [graph.neighbours.spread(part.flatten(1)) for part in rotate_back(messages, graph)]
        own, own_logits = None, None
        if self.to_own is not None:
            own_logits, values = self._logits_and_values(self.raw.split(self.to_own(x)))
            own = [part.flatten(1) for part in values]
        return self.attend(x, graph, spread, own, [graph.neighbours.spread(s) for s in logits], own_logits)

    def _logits_and_values(self, raw: list[Tensor]) -> tuple[list[Float[Tensor, "members heads"]], list[Tensor]]:
        invariants, *higher = raw
        *hidden, values = invariants.split([*self.hidden, self.gate.fiber_in[0]], dim=-1)
        logits = [
            F.leaky_relu(z.squeeze(1), self.slope) @ weight for z, weight in zip(hidden, self.to_logits, strict=True)
        ]
        return logits, self.gate([values, *higher])
