"""Graph attention: SO(2) map, activation, SO(2) map in the frame of each edge, weighted by attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.activation import smooth_leaky_relu
from equiformer_pytorch.published.activation import (
    Activation,
    channel_factor,
    scalar_channels,
)
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.softmax import edge_softmax
from equiformer_pytorch.published.linear import DegreeLinear
from equiformer_pytorch.published.norm import RMSNorm
from equiformer_pytorch.ops.recompute import product_in_pieces, recomputed
from equiformer_pytorch.published.radial import RadialNetwork, element_embeddings
from equiformer_pytorch.published.so2 import SO2Linear
from equiformer_pytorch.so3.rows import (
    components,
    degree_index,
    order_major_rows,
    rescale,
    split_degrees,
)

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


class GraphAttention(nn.Module):
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

    to_frame: Tensor
    made_up: Tensor

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
        self.first_name, self.second_name = f"{name}_1", f"{name}_2"
        self.add_module(self.first_name, first)
        self.add_module(self.second_name, second)
        self.radial_name = f"{self.first_name}.rad_func" if radial_inside else "rad_func"
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

        rows = order_major_rows(o.max_degree, o.max_order)
        low, high = (0, degrees) if keep is None else keep
        kept = [i for i, (degree, _) in enumerate(rows) if low <= degree < high]
        self.register_buffer("kept_rows", None if keep is None else torch.tensor(kept), persistent=False)
        factors = torch.tensor([rescale(rows[i][0], o.max_order) for i in kept], dtype=torch.float64)
        self.register_buffer("made_up", factors, persistent=False)
        self.register_buffer("component_degree", torch.tensor(degree_index(o.max_degree)), persistent=False)

    def forward(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> Float[Tensor, "atoms components_out out"]:
        o = self.options
        width = max(components(o.max_degree) * 2 * o.channels, 1)
        (y,) = over_receivers(lambda _, piece: (self._take_in(x, piece),), edges, width, x.shape[0])
        return self.proj.of_parts(split_degrees(y, o.max_degree, self.keep))

    def radial(self) -> RadialNetwork:
        """The radial network, which published files keep in different places."""
        network = self.get_submodule(self.radial_name)
        if not isinstance(network, RadialNetwork):
            raise TypeError(f"{self.radial_name} must be a RadialNetwork, got {type(network).__name__}")
        return network

    def _take_in(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> Float[Tensor, "receivers components_out heads_values"]:
        first, second = self.get_submodule(self.first_name), self.get_submodule(self.second_name)
        hidden, invariants = first(*self._ends(x, edges))
        features, scalars = invariants.split([self.alpha_width, invariants.shape[1] - self.alpha_width], dim=1)
        hidden = self.act(hidden, scalars)
        message, _ = second(hidden)
        rotation = edges.rotation.blocks[0]
        if self.keep is not None:
            low, high = (degree**2 for degree in self.keep)
            rotation = rotation.index_select(1, self.get_buffer("kept_rows"))[:, :, low:high]

        def turned_back(rotation: Tensor, message: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
            factors = alpha[:, None] * self.made_up.to(alpha.dtype)[:, None]
            weighted = message.unflatten(2, (alpha.shape[1], -1)) * factors[..., None]
            return rotation.mT, weighted.flatten(2)

        split = rotation, message, self._weights(features, edges)
        return edges.sum_receivers(product_in_pieces(turned_back, split, (), rotation.shape[2] * message.shape[2]))

    def _ends(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph
    ) -> tuple[Float[Tensor, "edges rows two_channels"], Float[Tensor, "edges scales"] | None]:
        """The features of both ends of each edge in its frame, and the radial weights that they are yet to be
        multiplied by; none if they were, to be added."""
        o = self.options
        network = self.radial()
        radial = network(edges, self.source_embedding, self.target_embedding)
        width, least = x.shape[1] * x.shape[2], 2 * x.shape[0]  # each piece gives a gradient of all atoms
        ends = edges.rotation.blocks[0], edges.senders, edges.receiver_points

        def joined(rotation: Tensor, senders: Tensor, receivers: Tensor, x: Tensor) -> tuple[Tensor, ...]:
            return rotation, x.index_select(0, senders), x.index_select(0, receivers)

        def added(
            rotation: Tensor, senders: Tensor, receivers: Tensor, radial: Tensor, x: Tensor, *last: Tensor
        ) -> tuple[Tensor, ...]:
            weights = F.linear(radial, *last).unflatten(1, (-1, 2 * o.channels))
            of_sender, of_receiver = weights.index_select(1, self.get_buffer("component_degree")).chunk(2, dim=2)
            return rotation, x.index_select(0, senders) * of_sender + x.index_select(0, receivers) * of_receiver

        if o.add_ends:
            return product_in_pieces(added, (*ends, radial), (x, *network.last()), width, least), None
        return product_in_pieces(joined, ends, (x,), width, least), F.linear(radial, *network.last())

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
