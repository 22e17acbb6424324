"""What both attentions share: messages, self slot, weighted sum, heads, gates, global heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import Graph
from equiformer_pytorch.layers.attention.taylor import TaylorLinearAttention
from equiformer_pytorch.layers.chunked import over_receivers
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


class Attention(nn.Module, ABC):
    r"""Attention of each point over its edges, with heads of its own for every degree,

    .. math:: y_i = W \bigoplus_h \gamma_{ih}\, V_h \Bigl(\alpha_{ii}^h m_i + \sum_j \alpha_{ij}^h m_{ij}\Bigr).

    The message of an edge is a gated convolution, shared by keys and values and by the heads:

    .. math:: m_{ij,0} = \mathrm{SiLU}(\tilde m_{ij,0}), \qquad m_{ij,l} = \tilde m_{ij,l}\,\sigma(g_{ij,l}),

    where one convolution gives m̃, the gates g, and the invariants z that a subclass wants for its logits. The message
    of a point to itself is made likewise from a linear map of the point. Whatever is linear, the value maps
    :math:`V_h` above all, acts on points after the sum, which are k times fewer than edges. A head's gate γ is a
    sigmoid of the invariants, so that it can attend to nothing. With `single_headed_kv` the heads of a degree share V
    and whatever else makes the keys.
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig, *, logit_invariants: int = 0) -> None:
        super().__init__()
        degrees = len(fiber_out)
        self.fiber, self.fiber_out, self.scalars = fiber, fiber_out, fiber[0]
        self.heads = config.heads[:degrees]
        self.dim_head = config.dim_head[:degrees]
        self.attend_self = config.attend_self
        self.key_heads = tuple(1 if config.single_headed_kv else h for h in self.heads)
        widest = max(h * d for h, d in zip(self.heads, self.dim_head, strict=True))
        self.channels = min(widest, max(*fiber_out, 32))
        self.columns = [(2 * degree + 1) * self.channels for degree in range(degrees)]

        self.norm = Norm(fiber)
        self.invariants = [logit_invariants, (degrees - 1) * self.channels]
        self.conv = Conv(
            fiber,
            degrees,
            self.channels,
            invariants=sum(self.invariants),
            radial_dim=config.radial_dim,
            reflection_equivariant=config.reflection_equivariant,
        )
        own = Fiber((self.channels + sum(self.invariants), *(self.channels,) * (degrees - 1)))
        self.to_own = Linear(fiber, own, bias=True) if config.attend_self else None
        self.to_values = nn.ParameterList(
            torch.randn(h, self.channels, d) * self.channels**-0.5
            for h, d in zip(self.key_heads, self.dim_head, strict=True)
        )
        self.to_gates = nn.Linear(fiber[0], sum(self.heads)) if config.gate_attn_head_outputs else None
        combined = [h * d for h, d in zip(self.heads, self.dim_head, strict=True)]
        linear_attn_dim = config.num_linear_attn_heads * config.linear_attn_dim_head
        fan_in = [width + (linear_attn_dim if degree == 0 else 0) for degree, width in enumerate(combined)]
        scale = [0.0 if config.init_out_zero else width**-0.5 for width in fan_in]
        self.to_out = nn.ParameterList(
            torch.randn(width, out) * s for width, out, s in zip(combined, fiber_out, scale, strict=True)
        )
        self.linear_attn = None
        if linear_attn_dim:
            self.linear_attn = TaylorLinearAttention(
                fiber[0], dim_head=config.linear_attn_dim_head, heads=config.num_linear_attn_heads
            )
            self.linear_attn_to_out = nn.Parameter(torch.randn(linear_attn_dim, fiber_out[0]) * scale[0])

    def forward(
        self, x: Float[Tensor, "points width"], graph: Graph
    ) -> tuple[Float[Tensor, "points width_out"], list[Float[Tensor, "points heads slots"]]]:
        """The features to add, and the attention weights per degree, slot 0 being the point itself where it attends
        to itself."""
        x = self.norm(x)
        out, weights = over_receivers(self._attend, x, self.conv.from_sender(x), graph, self.conv.width)
        if self.linear_attn is not None:
            attended = self.linear_attn(x[:, : self.scalars], graph) @ self.linear_attn_to_out
            out = out + F.pad(attended, (0, out.shape[-1] - attended.shape[-1]))
        return out, list(weights.split(list(self.heads), dim=1))

    @abstractmethod
    def logits(
        self,
        x: Float[Tensor, "receivers width"],
        messages: Float[Tensor, "receivers slots components_channels"],
        invariants: Float[Tensor, "receivers slots logit_invariants"],
    ) -> Float[Tensor, "receivers heads slots"]:
        """Of the heads of all degrees, side by side, from the normed receivers and what they attend to."""

    def _messages(
        self, x: Tensor, sender: Tensor, graph: Graph
    ) -> tuple[Float[Tensor, "receivers slots components_channels"], Float[Tensor, "receivers slots logit_invariants"]]:
        """What each receiver attends to: itself first, where it does, then its edges."""
        orders, invariants = self.conv(x, sender, graph)
        for_logits, gates = self._gates(orders[0][:, 0, 0], invariants)
        gated = [order * gates[:, None, m:] for m, order in enumerate(orders)]
        messages = graph.neighbours.spread(graph.rotation.restore(gated).flatten(1))
        for_logits = graph.neighbours.spread(for_logits)
        if self.to_own is None:
            return messages, for_logits
        scalars, *higher = self.to_own.fiber_out.split(self.to_own(x))
        scalars, invariants = scalars.squeeze(1).split([self.channels, sum(self.invariants)], dim=-1)
        own_for_logits, gates = self._gates(scalars, invariants)
        own = join([part * gates[:, degree, None] for degree, part in enumerate([scalars[:, None], *higher])])
        return torch.cat((own[:, None], messages), dim=1), torch.cat((own_for_logits[:, None], for_logits), dim=1)

    def _gates(
        self, scalars: Float[Tensor, "members channels"], invariants: Float[Tensor, "members invariants"]
    ) -> tuple[Float[Tensor, "members logit_invariants"], Float[Tensor, "members degrees channels"]]:
        """The invariants for the logits, and the factors of each degree; the scalars gate themselves (SiLU)."""
        for_logits, gates = invariants.split(self.invariants, dim=-1)
        return for_logits, torch.sigmoid(torch.cat((scalars, gates), dim=-1)).unflatten(-1, (-1, self.channels))

    def _attend(self, x: Tensor, sender: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Softmax, gates, weighted sums, values and output map, for some receivers."""
        messages, invariants = self._messages(x, sender, graph)
        weights = gated = graph.softmax(self.logits(x, messages, invariants), self.attend_self)
        if self.to_gates is not None:
            gated = weights * torch.sigmoid(self.to_gates(x[:, : self.scalars]))[:, :, None]

        outputs = []
        by_degree = zip(gated.split(list(self.heads), dim=1), messages.split(self.columns, dim=-1), strict=True)
        for degree, (gated_weights, message) in enumerate(by_degree):
            summed = torch.bmm(gated_weights.to(message.dtype), message)
            summed = summed.unflatten(-1, (2 * degree + 1, self.channels)).transpose(1, 2).flatten(2)
            outputs.append(summed @ self._values_to_out(degree))
        return join(outputs), weights.detach()

    def _values_to_out(self, degree: int) -> Float[Tensor, "heads_channels channels_out"]:
        """Value map and output map of the heads of one degree, multiplied out: they act on points, the product on
        weights, and its size does not depend on the number of points."""
        to_out = self.to_out[degree].unflatten(0, (self.heads[degree], -1))
        return (self.to_values[degree] @ to_out).flatten(0, 1)
