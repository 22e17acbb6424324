"""Graph attention: SO(2) map, activation, SO(2) map in the frame of each edge, weighted by attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.activation import smooth_leaky_relu
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.recompute import recomputed
from equiformer_pytorch.ops.rotate import join_rotate, rotate_sum, weigh_rotate
from equiformer_pytorch.ops.softmax import edge_softmax
from equiformer_pytorch.published.activation import (
    Activation,
    channel_factor,
    scalar_channels,
)
from equiformer_pytorch.published.linear import DegreeLinear
from equiformer_pytorch.published.norm import RMSNorm
from equiformer_pytorch.published.radial import RadialNetwork, element_embeddings
from equiformer_pytorch.published.so2 import SO2Linear
from equiformer_pytorch.so3.rows import component_degrees, components, kept_rows, rescaled_rows, split_degrees

# The degrees of a result of which only the vectors are wanted: (first, last + 1).
VECTORS = (1, 2)


@dataclass(frozen=True)
class AttentionOptions:
    """What the attentions of a model have in common; names as in the models."""

    channels: int
    hidden_channels: int
    heads: int
    alpha_channels: int
    value_channels: int
    max_degree: int
    max_order: int
    grid: Sequence[int] | None
    activation: str
    radial_widths: tuple[int, ...]
    """(basis, hidden, hidden); the element embeddings come on top."""
    elements: int
    element_embedding: bool = True
    per_degree_radial: bool = True
    """Radial weights per degree; otherwise per degree and order."""
    add_ends: bool = False
    """Add the features of sender and receiver, each times its weights, instead of concatenating them."""
    renormalise: bool = True
    rms: bool = False
    softcap: float | None = None
    eps: float = 1e-16
    alpha_silu: bool = False
    alpha_drop: float = 0.0
    mask_rate: float = 0.0
    weights_drop: float = 0.0
    value_drop: float = 0.0
    normal_init: bool = False


class GraphAttention(ExactConstants):
    r"""What each atom takes in from its neighbours. In the frame of edge ij, D = D_ij,

    .. math:: h_{ij} = \mathrm{act}\bigl(\mathrm{SO2}(w_{ij} ⊙ D\,[x_j, x_i])\bigr), \qquad
        y_i = A \sum_j α_{ij}\, D^T s\,\mathrm{SO2}(h_{ij}),

    with radial weights w of the distance and the two elements, and s the :func:`~.layout.rescale` of left-out orders.
    Attention weights α of each head come from invariants a of the first map,

    .. math:: t_{ij} = v · \mathrm{LeakyReLU}(\mathrm{LN}(a_{ij})), \quad
        α_{ij} = u_{ij} \frac{u_{ij} e^{t_{ij}}}{\sum_k u_{ik} e^{t_{ik}} + ε},

    u the envelope, if the model has one. (EquiformerV2, section 4; EquiformerV3, section 4.)

    Args:
        options: see :class:`AttentionOptions`.
        channels_out: of y.
        keep: (first, last + 1) of the degrees of y that are wanted; the others are not computed.
        convolution: ("so2_conv", "so2_m_conv") or ("so2_linear", "so2_m_linear"): names of the published parameters.
        radial_inside: whether the published radial network is a part of the first SO(2) map.
        bias_rank: see :class:`~.linear.DegreeLinear`.
    """

    def __init__(
        self,
        options: AttentionOptions,
        channels_out: int,
        *,
        convolution: tuple[str, str],
        radial_inside: bool,
        bias_rank: int,
        keep: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.options, self.keep = options, keep
        degrees, o = options.max_degree + 1, options
        self.source_embedding = self.target_embedding = None
        widths = list(o.radial_widths)
        if o.element_embedding:
            self.source_embedding, self.target_embedding = element_embeddings(o.elements, widths[-1])
            widths[0] += 2 * widths[-1]
        entries = degrees if o.per_degree_radial else sum(degrees - m for m in range(o.max_order + 1))
        radial = RadialNetwork((*widths, entries * 2 * o.channels))

        hidden = o.hidden_channels * channel_factor(o.activation)
        self.alpha_width = o.heads * o.alpha_channels
        name, orders = convolution
        first = SO2Linear(
            o.channels if o.add_ends else 2 * o.channels,
            hidden,
            o.max_degree,
            o.max_order,
            orders=orders,
            invariants=self.alpha_width + scalar_channels(o.activation, o.hidden_channels, o.max_degree),
            scales=None if o.add_ends else o.per_degree_radial,
            normal=o.normal_init,
        )
        second = SO2Linear(
            o.hidden_channels,
            o.heads * o.value_channels,
            o.max_degree,
            o.max_order,
            orders=orders,
            keep=keep,
            normal=o.normal_init,
        )
        if "-merge" in o.activation:
            with torch.no_grad():
                second.fc_m0.weight[: o.hidden_channels] *= 2**-0.5
        # Published files keep them under these names.
        self.names = f"{name}_1", f"{name}_2", f"{name}_1.rad_func" if radial_inside else "rad_func"
        self.add_module(self.names[0], first)
        self.add_module(self.names[1], second)
        (first if radial_inside else self).add_module("rad_func", radial)

        self.alpha_norm: nn.Module = nn.Identity()
        if o.rms:
            self.alpha_norm = RMSNorm(o.alpha_channels)
        elif o.renormalise:
            self.alpha_norm = nn.LayerNorm(o.alpha_channels)
        bound = o.alpha_channels**-0.5
        self.alpha_dot = nn.Parameter(torch.empty(o.heads, o.alpha_channels).uniform_(-bound, bound))
        self.act = Activation(o.activation, o.max_degree, o.max_order, o.grid, order_major=True, dropout=o.value_drop)
        self.proj = DegreeLinear(
            o.heads * o.value_channels, channels_out, o.max_degree, bias_rank=bias_rank, normal=o.normal_init
        )

        low, high = (0, degrees) if keep is None else keep
        if keep is not None:
            self.constant("kept_rows", kept_rows, o.max_degree, o.max_order, low, high)
        self.constant("rescaled", rescaled_rows, o.max_degree, o.max_order, o.max_order, low, high)
        self.constant("component_degree", component_degrees, 0, degrees)

    @property
    def first(self) -> SO2Linear:
        """The SO(2) map before the activation."""
        return cast(SO2Linear, self.get_submodule(self.names[0]))

    @property
    def second(self) -> SO2Linear:
        """The SO(2) map behind it."""
        return cast(SO2Linear, self.get_submodule(self.names[1]))

    @property
    def radial(self) -> RadialNetwork:
        """The network of the radial weights."""
        return cast(RadialNetwork, self.get_submodule(self.names[2]))

    def forward(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> Float[Tensor, "atoms components_out out"]:
        o = self.options
        width = max(components(o.max_degree) * 2 * o.channels, 1)
        (y,) = over_receivers(lambda piece: (self._aggregate(x, piece),), edges, width, x.shape[0])
        return self.proj.of_parts(split_degrees(y, o.max_degree, self.keep))

    def _aggregate(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> Float[Tensor, "receivers components_out heads_values"]:
        o = self.options
        ends, scales = self._added_ends(x, edges) if o.add_ends else self._joined_ends(x, edges)
        hidden, invariants = self.first(ends, scales)
        features, scalars = invariants.split([self.alpha_width, invariants.shape[1] - self.alpha_width], dim=1)
        message, _ = self.second(self.act(hidden, scalars))
        (rotation,) = edges.rotation.blocks
        if self.keep is not None:
            low, high = (degree**2 for degree in self.keep)
            rotation = rotation.index_select(1, self.get_buffer("kept_rows"))[:, :, low:high]
        return rotate_sum(message, self._weights(features, edges), self.cast("rescaled", x.dtype), rotation, edges)

    def _joined_ends(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> tuple[Float[Tensor, "edges rows two_channels"], Float[Tensor, "edges scales"]]:
        """The features of both ends side by side, in the frame of the edge, and the radial weights that they are yet
        to be multiplied by."""
        radial = self.radial(edges, self.source_embedding, self.target_embedding)
        return join_rotate(x, edges), F.linear(radial, *self.radial.last())

    def _added_ends(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> tuple[Float[Tensor, "edges rows channels"], None]:
        """The features of both ends, each times its radial weights, added and turned into the frame of the edge."""
        radial = self.radial(edges, self.source_embedding, self.target_embedding)
        return weigh_rotate(x, radial, *self.radial.last(), self.get_buffer("component_degree"), edges), None

    def _weights(self, features: Float[Tensor, "edges alpha"], edges: EdgeGraph) -> Float[Tensor, "edges heads"]:
        """Attention weights."""
        o = self.options
        features = self.alpha_norm(features.unflatten(1, (o.heads, o.alpha_channels)))
        if o.alpha_silu:
            logits = (F.dropout(F.silu(features), o.alpha_drop, self.training) * self.alpha_dot).sum(-1)
        else:
            logits = recomputed(lambda x, dot: (smooth_leaky_relu(x) * dot).sum(-1), features, self.alpha_dot)
        if o.softcap is not None:
            logits = (logits / o.softcap).tanh() * o.softcap
        masked = self.training and o.mask_rate > 0
        kept = F.dropout(torch.ones_like(logits), o.mask_rate) if masked else None
        return F.dropout(edge_softmax(logits, edges, o.eps, kept), o.weights_drop, self.training)
