"""What both attentions share: messages, self slot, weighted sum, heads, gates, global heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.attention.heads import Heads, is_dense
from equiformer_pytorch.layers.attention.points import OfPoints, PointMaps
from equiformer_pytorch.layers.attention.taylor import TaylorLinearAttention
from equiformer_pytorch.layers.condition import Conditioning
from equiformer_pytorch.layers.conv import Conv
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm
from equiformer_pytorch.layers.rearranged import Matrices, Part, TakesMatrices
from equiformer_pytorch.ops.attend import Distances, attend
from equiformer_pytorch.ops.gates import gate_messages
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.rotate import rotate_out


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """What every attention layer of a model has in common. `heads` and `dim_head` have one entry per degree."""

    heads: tuple[int, ...]
    dim_head: tuple[int, ...]
    radial_dim: int
    """Width of the embedding of edges."""
    attend_self: bool
    """These and the following as in :class:`Equiformer`."""
    single_headed_kv: bool
    gate_attn_head_outputs: bool
    num_linear_attn_heads: int
    linear_attn_dim_head: int
    init_out_zero: bool
    reflection_equivariant: bool
    condition_dim: int | None = None
    """Width of what is known of structures, embedded."""


class Attention(TakesMatrices):
    r"""Attention of each point over its edges, with heads of its own for every degree,

    .. math:: y_i = W \bigoplus_h \gamma_{ih}\, V_h \Bigl(\alpha_{ii}^h m_i + \sum_j \alpha_{ij}^h m_{ij}\Bigr).

    The message of an edge is a gated convolution, shared by keys and values and by the heads:

    .. math:: m_{ij,0} = \mathrm{SiLU}(\tilde m_{ij,0}), \qquad m_{ij,l} = \tilde m_{ij,l}\,\sigma(g_{ij,l}),

    where one convolution gives m̃, the gates g, and the invariants z that a subclass wants for its logits. The message
    of a point to itself is made likewise from a linear map of the point. Whatever is linear, the value maps
    :math:`V_h` above all, acts on points after the sum, which are k times fewer than edges. A head's gate γ is a
    sigmoid of the invariants, so that it can attend to nothing. With `single_headed_kv` the heads of a degree share V
    and whatever else makes the keys.

    All maps of the points are one product, all orders of an edge another; where that would be mostly zeros, there is
    one product for each degree and order (:class:`PointMaps`, :class:`SO2Linear`).

    Args:
        fiber, fiber_out: of the features that come in and of those that go out, which may lack higher degrees.
        config: what all layers of a model have in common.
        logit_invariants: how many invariants z a subclass wants of each message.
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
        self.condition = None if config.condition_dim is None else Conditioning(fiber, config.condition_dim)
        self.logit_invariants, gates = logit_invariants, (degrees - 1) * self.channels
        self.conv = Conv(
            fiber,
            degrees,
            self.channels,
            invariants=logit_invariants + gates,
            gates=gates,
            radial_dim=config.radial_dim,
            reflection_equivariant=config.reflection_equivariant,
        )
        own = Fiber((self.channels + logit_invariants + gates, *(self.channels,) * (degrees - 1)))
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
        self.to_query: Linear | nn.Linear | None = None
        self.linear_attn = None
        if linear_attn_dim:
            self.linear_attn = TaylorLinearAttention(
                fiber[0], dim_head=config.linear_attn_dim_head, heads=config.num_linear_attn_heads
            )
            self.linear_attn_to_out = nn.Parameter(torch.randn(linear_attn_dim, fiber_out[0]) * scale[0])

    def _plan(self) -> None:
        """How the products are arranged; subclasses call it when their own maps are there."""
        alike = list(zip(self.fiber, self.heads, self.dim_head, self.fiber_out, strict=False))
        self.points = PointMaps(
            self.conv,
            self.to_own,
            self.to_gates,
            self.to_query,
            heads=self.heads,
            channels=self.channels,
            logit_invariants=self.logit_invariants,
            shapes=[*alike, *self.fiber[len(alike) :]],
            dense=is_dense(self.heads, self.dim_head, self.channels),
        )
        self.to_points = Heads(self.heads, self.key_heads, self.dim_head, self.points.plan, dense=self.points.dense)

    def parts(self) -> list[Part]:
        """Norm, maps of the points, of the edges, of the sums, logits."""
        return [
            (self.norm.spread_gain, [self.norm.gain]),
            (self.points.build, self.points.parameters_in_order()),
            (self.conv.so2.build, self.conv.so2.parameters_in_order()),
            (self.to_points.build, [*self.to_values, *self.to_out]),
            (self.build_logits, self.logit_parameters()),
        ]

    @abstractmethod
    def logit_parameters(self) -> list[Tensor]:
        """The parameters that :meth:`build_logits` takes."""

    @abstractmethod
    def build_logits(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The matrices that :meth:`compared` takes."""

    @abstractmethod
    def compared(
        self,
        invariants: Float[Tensor, "receivers _slots logit_invariants"],
        query: Tensor | None,
        matrices: Sequence[Tensor],
    ) -> Distances | Float[Tensor, "receivers slots heads"]:
        """The logits of the heads of all degrees, side by side, or what gives them from the messages."""

    def forward(
        self,
        x: Float[Tensor, "points width"],
        graph: EdgeGraph,
        matrices: Matrices | None = None,
        with_weights: bool = True,
    ) -> tuple[Float[Tensor, "points width_out"], list[Float[Tensor, "points _heads slots"]]]:
        """The features to add; and, where wanted, the attention weights per degree, slot 0 being the point itself where
        it attends to itself. `matrices` are those of :meth:`parts`."""
        matrices = self.own_matrices() if matrices is None else matrices
        (gain,), for_points, for_edges, for_heads, for_logits = matrices
        normed = self.norm(x, gain)
        if self.condition is not None:
            normed = self.condition(normed, graph.condition)
        of_points = self.points(normed, for_points)
        _, slots = graph.laid_out()
        columns = slots.envelope.shape[1]

        def received(graph: EdgeGraph, *of_receivers: Any) -> tuple[Tensor, ...]:
            """Softmax, gates and weighted sums, for some receivers."""
            _, slots = graph.laid_out()
            mine = OfPoints(of_points.sender, *of_receivers)
            invariants, message = self.conv(mine.sender, mine.receiver, graph, for_edges)
            message = rotate_out(message, graph.rotation, len(self.heads), self.conv.so2.max_order)
            messages, invariants = self._messages(message, invariants, mine, graph)
            compared = self.compared(invariants, mine.query, for_logits)
            summed, shares = attend(messages, compared, slots, mine.gates, self.points.plan)
            out = self.to_points(summed, for_heads)
            if not with_weights:
                return (out,)
            found = shares.detach() * slots.envelope.detach()
            return out, F.pad(found, (0, 0, 0, columns - found.shape[1]))

        entries = sum(matrix.numel() for matrix in (*for_edges, *for_heads, *for_logits))
        out, *weights = over_receivers(received, graph, self.conv.width, x.shape[0], of_points[1:], weights=entries)
        if self.linear_attn is not None:
            attended = self.linear_attn(normed[:, : self.scalars], graph) @ self.linear_attn_to_out
            out = out + F.pad(attended, (0, out.shape[-1] - attended.shape[-1]))
        return out, [part for found in weights for part in found.mT.split(list(self.heads), dim=1)]

    def _messages(
        self,
        message: Float[Tensor, "edges components channels"],
        invariants: Float[Tensor, "edges invariants"],
        mine: OfPoints,
        graph: EdgeGraph,
    ) -> tuple[
        list[Float[Tensor, "receivers _slots components_channels"]], Float[Tensor, "receivers _slots for_logits"]
    ]:
        """What each receiver attends to, itself first, where it does, then its edges, in parts; and invariants for the
        logits."""
        messages, invariants = graph.spread(message).flatten(2), graph.spread(invariants)
        own = None if mine.own is None else mine.own.flatten(1)
        if self.points.gated:
            parts = [messages] if own is None else [own[:, None], messages]
        else:
            gates = invariants
            if self.logit_invariants:
                widths = [self.logit_invariants, gates.shape[2] - self.logit_invariants]
                invariants, gates = invariants.split(widths, dim=2)
            parts = [gate_messages(messages, gates, own, len(self.heads))]
        if mine.invariants is not None:
            invariants = torch.cat((mine.invariants[:, None], invariants), dim=1)
        return parts, invariants
