"""What both attentions share: messages, self slot, weighted sum, heads, gates, global heads."""

from __future__ import annotations

from collections.abc import Sequence
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
    radial_mixture: int | None
    attend_self: bool
    single_headed_kv: bool
    gate_attn_head_outputs: bool
    num_linear_attn_heads: int
    linear_attn_dim_head: int
    init_out_zero: bool
    reflection_equivariant: bool


class Attention(nn.Module):
    r"""Attention of each point over its edges, with heads of its own for every degree,

    .. math:: y_i = W \bigoplus_h \gamma_{ih}\, V_h \Bigl(\alpha_{ii}^h m_i + \sum_j \alpha_{ij}^h m_{ij}\Bigr).

    The message :math:`m_{ij}` of an edge is a convolution with `message` channels, shared by keys and values and by
    the heads: whatever is linear, the value maps :math:`V_h` above all, acts on points after the sum, which are
    k times fewer than edges. The self message :math:`m_i` is linear in the point. A head's gate γ is a sigmoid of
    the invariants, so that it can attend to nothing. Subclasses say what the messages and the logits are.

    The message width is `dim_head` with a single key/value head, where V is the identity; else the channels of the
    degree, but at least 32 and at most heads · dim_head.
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig) -> None:
        super().__init__()
        degrees = len(fiber_out)
        self.fiber, self.fiber_out = fiber, fiber_out
        self.heads = config.heads[:degrees]
        self.dim_head = config.dim_head[:degrees]
        self.attend_self = config.attend_self
        self.single_headed_kv = config.single_headed_kv
        self.message = Fiber(
            d if config.single_headed_kv else min(h * d, max(c, 32))
            for c, h, d in zip(fiber_out, self.heads, self.dim_head, strict=True)
        )
        self.norm = Norm(fiber)

        self.to_values = nn.ParameterList()
        if not config.single_headed_kv:
            for h, d, c in zip(self.heads, self.dim_head, self.message, strict=True):
                self.to_values.append(torch.randn(h, c, d) * c**-0.5)

        combined = [h * d for h, d in zip(self.heads, self.dim_head, strict=True)]
        self.linear_attn = None
        if config.num_linear_attn_heads > 0:
            self.linear_attn = TaylorLinearAttention(
                fiber[0], dim_head=config.linear_attn_dim_head, heads=config.num_linear_attn_heads
            )
            combined[0] += config.num_linear_attn_heads * config.linear_attn_dim_head
        self.to_gates = nn.Linear(fiber[0], sum(self.heads)) if config.gate_attn_head_outputs else None
        self.to_out = Linear(Fiber(combined), fiber_out, zero=config.init_out_zero)

    def make_messages(self, fiber_message: Fiber, config: AttentionConfig) -> tuple[Conv, Linear | None]:
        """The maps that give the messages of edges and, where points attend to themselves, of points."""
        conv = Conv(
            self.fiber,
            fiber_message,
            radial_dim=config.radial_dim,
            reflection_equivariant=config.reflection_equivariant,
            radial_mixture=config.radial_mixture,
        )
        own = Linear(self.fiber, fiber_message, bias=True) if config.attend_self else None
        return conv, own

    def attend(
        self,
        x: Float[Tensor, "points width"],
        graph: Graph,
        messages: list[Float[Tensor, "points slots width"]],
        own: list[Float[Tensor, "points width"]] | None,
        logits: Sequence[Float[Tensor, "points slots heads"]],
        own_logits: Sequence[Float[Tensor, "points heads"]] | None,
    ) -> tuple[Float[Tensor, "points width_out"], list[Tensor]]:
        """Softmax, weighted sums, values, gates and output map; `x` is the normed input. The second result is, per
        degree, the weights (points, heads, slots), the self slot first where there is one."""
        gates = [None] * len(self.heads)
        invariants = x[:, : self.fiber[0]]
        if self.to_gates is not None:
            gates = torch.sigmoid(self.to_gates(invariants)).split(list(self.heads), dim=-1)

        outputs, all_weights = [], []
        for degree, message in enumerate(messages):
            own_logit = None if own_logits is None else own_logits[degree]
            weights, own_weights = graph.softmax(logits[degree], own_logit)
            summed = torch.bmm(weights.to(message.dtype), message)
            if own is not None and own_weights is not None:
                summed = summed + own_weights[:, :, None].to(message.dtype) * own[degree][:, None]
                weights = torch.cat((own_weights[:, :, None], weights), dim=-1)
            outputs.append(self._combine(degree, summed, gates[degree]))
            all_weights.append(weights.detach())

        if self.linear_attn is not None:
            outputs[0] = torch.cat((outputs[0], self.linear_attn(invariants, graph)[:, None]), dim=-1)
        return self.to_out(join(outputs)), all_weights

    def _combine(self, degree: int, summed: Tensor, gate: Tensor | None) -> Float[Tensor, "points order channels"]:
        """Values of each head from the summed messages (points, heads, order · message), gated, side by side."""
        if gate is not None:
            summed = summed * gate[:, :, None]
        by_head = summed.unflatten(-1, (2 * degree + 1, -1)).transpose(1, 2)
        if not self.single_headed_kv:
            by_head = torch.einsum("pmhc,hcd->pmhd", by_head, self.to_values[degree])
        return by_head.flatten(2)
