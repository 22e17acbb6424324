"""What both attentions share: messages, self slot, weighted sum, heads, gates, global heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.attention.taylor import TaylorLinearAttention
from equiformer_pytorch.layers.conv import Conv
from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """What every attention layer of a model has in common. `heads` and `dim_head` have one entry per degree."""

    heads: tuple[int, ...]
    dim_head: tuple[int, ...]
    radial_dim: int
    attend_self: bool
    single_headed_kv: bool
    gate_attn_head_outputs: bool
    num_linear_attn_heads: int
    linear_attn_dim_head: int
    init_out_zero: bool
    reflection_equivariant: bool


def message_channels(fiber_out: Fiber, config: AttentionConfig) -> int:
    """As many as the widest degree, at least 32, at most heads · dim_head."""
    widest = max(h * d for h, d in zip(config.heads, config.dim_head, strict=True))
    return min(widest, max(*fiber_out, 32))


class Attention(nn.Module):
    r"""Attention of each point over its edges, with heads of its own for every degree,

    .. math:: y_i = W \bigoplus_h \gamma_{ih}\, V_h \Bigl(\alpha_{ii}^h m_i + \sum_j \alpha_{ij}^h m_{ij}\Bigr).

    The message :math:`m_{ij}` of an edge is a convolution, shared by keys and values and by the heads: whatever is
    linear, the value maps :math:`V_h` above all, acts on points after the sum, which are k times fewer than edges.
    The self message :math:`m_i` is linear in the point. A head's gate γ is a sigmoid of the invariants, so that it can
    attend to nothing. Subclasses say what messages and logits are. With `single_headed_kv` the heads of a degree
    share V (and whatever else makes the keys).
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig, *, invariants: int = 0) -> None:
        super().__init__()
        degrees = len(fiber_out)
        self.fiber, self.fiber_out = fiber, fiber_out
        self.heads = config.heads[:degrees]
        self.dim_head = config.dim_head[:degrees]
        combined = [h * d for h, d in zip(self.heads, self.dim_head, strict=True)]
        self.channels = message_channels(fiber_out, config)
        self.key_heads = tuple(1 if config.single_headed_kv else h for h in self.heads)

        self.norm = Norm(fiber)
        self.conv = Conv(
            fiber,
            degrees,
            self.channels,
            invariants=invariants,
            radial_dim=config.radial_dim,
            reflection_equivariant=config.reflection_equivariant,
        )
        self.own_fiber = Fiber((self.channels + invariants, *(self.channels,) * (degrees - 1)))
        self.to_own = Linear(fiber, self.own_fiber, bias=True) if config.attend_self else None
        self.to_values = nn.ParameterList(
            torch.randn(h, self.channels, d) * self.channels**-0.5
            for h, d in zip(self.key_heads, self.dim_head, strict=True)
        )
        self.linear_attn = None
        if config.num_linear_attn_heads > 0:
            self.linear_attn = TaylorLinearAttention(
                fiber[0], dim_head=config.linear_attn_dim_head, heads=config.num_linear_attn_heads
            )
            combined[0] += config.num_linear_attn_heads * config.linear_attn_dim_head
        self.to_gates = nn.Linear(fiber[0], sum(self.heads)) if config.gate_attn_head_outputs else None
        self.to_out = Linear(Fiber(combined), fiber_out, zero=config.init_out_zero)

    def attend(
        self,
        x: Float[Tensor, "points width"],
        graph: Graph,
        messages: Float[Tensor, "points slots components_channels"],
        logits: Float[Tensor, "points slots heads"],
        own: Float[Tensor, "points components_channels"] | None,
        own_logits: Float[Tensor, "points heads"] | None,
    ) -> tuple[Float[Tensor, "points width_out"], list[Float[Tensor, "points heads slots"]]]:
        """Softmax, weighted sums, values, gates and output map; `x` is the normed input, the heads of all degrees
        stand side by side. The second result is the weights per degree, the self slot first where there is one."""
        weights, own_weights = graph.softmax(logits, own_logits)
        sizes = [(2 * degree + 1) * self.channels for degree in range(len(self.heads))]
        invariants = x[:, : self.fiber[0]]
        gates = None if self.to_gates is None else torch.sigmoid(self.to_gates(invariants))

        outputs, first = [], 0
        for degree, message in enumerate(messages.split(sizes, dim=-1)):
            heads = slice(first, first + self.heads[degree])
            first = heads.stop
            summed = torch.bmm(weights[:, heads].to(message.dtype), message)
            if own is not None and own_weights is not None:
                part = own.split(sizes, dim=-1)[degree]
                summed = summed + own_weights[:, heads, None].to(part.dtype) * part[:, None]
            if gates is not None:
                summed = summed * gates[:, heads, None]
            by_head = summed.unflatten(-1, (2 * degree + 1, self.channels))
            values = torch.einsum("phmc,hcd->pmhd", by_head, self.to_values[degree].expand(self.heads[degree], -1, -1))
            outputs.append(values.flatten(2))

        if self.linear_attn is not None:
            outputs[0] = torch.cat((outputs[0], self.linear_attn(invariants, graph)[:, None]), dim=-1)
        if own_weights is not None:
            weights = torch.cat((own_weights[:, :, None], weights), dim=-1)
        return self.to_out(join(outputs)), list(weights.detach().split(list(self.heads), dim=1))
