"""What an atom takes in from its neighbours: SO(2) map, activation, SO(2) map in the frame of each edge, summed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops.dispatch import written_out
from equiformer_pytorch.ops.messages import Maps, OrderMatrices, gated_messages
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.rotate import join_rotate, rotate_sum
from equiformer_pytorch.published.activation import GATE, Activation, scalar_channels
from equiformer_pytorch.published.escn_md.experts import Experts, Mixture
from equiformer_pytorch.published.radial import RadialNetwork
from equiformer_pytorch.published.so2 import OrderLinear, SO2Linear
from equiformer_pytorch.so3.rows import components, rescaled_rows

# The activations by the names that configurations have for them.
ACTIVATIONS = {"gate": GATE, "s2": "sep_s2"}
# Embeddings of the elements of sender and receiver.
Elements = tuple[nn.Embedding, nn.Embedding]


class Convolution(SO2Linear):
    """An SO(2) map whose matrices may be mixed, for each structure, from those of experts.

    Args:
        scaled: whether each channel of each degree and order of the input is scaled.
        experts: how many; 0 for one matrix of each order.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        max_degree: int,
        max_order: int,
        *,
        invariants: int = 0,
        scaled: bool = False,
        experts: int = 0,
    ) -> None:
        super().__init__(
            channels_in,
            channels_out,
            max_degree,
            max_order,
            orders="so2_m_conv",
            invariants=invariants,
            scales=False if scaled else None,
        )
        self.experts = experts
        if not experts:
            return
        for owner, name in ((self, "fc_m0"), *((entry, "fc") for entry in self.orders)):
            one = cast(nn.Linear, owner.get_submodule(name))
            setattr(owner, name, Experts(experts, one.in_features, one.out_features, bias=one.bias is not None))

    @property
    def orders(self) -> Iterable[OrderLinear]:
        """The maps of the orders above 0."""
        return cast(Iterable[OrderLinear], self.get_submodule(self.orders_name))

    def mixed(self, mixture: Mixture | None) -> list[Float[Tensor, "groups _out _in"]] | None:
        """The matrices of all orders, of each group of structures; None without experts."""
        if not self.experts or mixture is None:
            return None
        maps = self.get_submodule("fc_m0"), *(entry.get_submodule("fc") for entry in self.orders)
        return [cast(Experts, each).mixed(mixture) for each in maps]

    def matrices(self, mixed: Sequence[Tensor] | None, group: int) -> OrderMatrices:
        """Those of a group of structures, gates before messages in order 0."""
        if mixed is None:
            first, others = self.fc_m0.weight, [cast(Tensor, entry.fc.weight) for entry in self.orders]
        else:
            first, *others = [matrix[group] for matrix in mixed]
        return OrderMatrices(first, self.fc_m0.bias, others)

    def in_segments(
        self,
        x: Float[Tensor, "edges rows channels"],
        scales: Float[Tensor, "edges scales"] | None,
        matrices: Sequence[Float[Tensor, "groups _out _in"]] | None,
        segments: Sequence[tuple[int, int, int]],
    ) -> tuple[Float[Tensor, "edges rows_out out"], Float[Tensor, "edges invariants"]]:
        """The map, with the matrices of its group for each segment (group, first edge, end)."""
        if matrices is None:
            return self(x, scales)
        found = []
        for group, first, end in segments:
            whole = end - first == x.shape[0]
            part = x if whole else x[first:end]
            of_part = scales if scales is None or whole else scales[first:end]
            found.append(self.of_weights(part, of_part, matrices[0][group], [matrix[group] for matrix in matrices[1:]]))
        message, invariants = zip(*found, strict=True)
        return (message[0], invariants[0]) if len(found) == 1 else (torch.cat(message), torch.cat(invariants))


class Edgewise(ExactConstants):
    r"""Messages in the frames of edges, D = D_ij, faded out by the envelope u and summed,

    .. math:: y_i = \sum_j u_{ij}\, D^T\,\mathrm{SO2}_2\bigl(\mathrm{act}\,\mathrm{SO2}_1(w_{ij} ⊙ D\,[x_j, x_i])\bigr),

    with radial weights w of the distance and the two elements. No attention. (Fu et al. 2025, eSEN, section 4; fairchem
    2.24, ``uma/escn_md_block.py``.)

    Args:
        resolution: latitudes and longitudes of the grid of sampled activations.
        activation: "gate" or "s2".
        radial_widths: (basis and embeddings of elements, hidden, hidden).
        experts: see :class:`Convolution`.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        max_degree: int,
        max_order: int,
        resolution: tuple[int, int] | None,
        activation: str,
        radial_widths: tuple[int, ...],
        experts: int,
    ) -> None:
        super().__init__()
        name = ACTIVATIONS[activation]
        self.width = components(max_degree) * 2 * channels
        self.so2_conv_1 = Convolution(
            2 * channels,
            hidden,
            max_degree,
            max_order,
            invariants=scalar_channels(name, hidden, max_degree),
            scaled=True,
            experts=experts,
        )
        entries = sum(max_degree + 1 - order for order in range(max_order + 1))
        self.so2_conv_1.add_module("rad_func", RadialNetwork((*radial_widths, entries * 2 * channels)))
        self.so2_conv_2 = Convolution(hidden, channels, max_degree, max_order, experts=experts)
        self.act = Activation(name, max_degree, max_order, resolution, order_major=True, integral=True)
        self.constant("rescaled", rescaled_rows, max_degree, max_order, max_degree)

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        edges: EdgeGraph,
        elements: Elements,
        mixture: Mixture | None,
        frozen: bool,
    ) -> Float[Tensor, "atoms components channels"]:
        first, second = self.so2_conv_1.mixed(mixture), self.so2_conv_2.mixed(mixture)
        radial = cast(RadialNetwork, self.so2_conv_1.get_submodule("rad_func"))

        def aggregate(piece: EdgeGraph) -> tuple[Tensor, ...]:
            segments = [] if mixture is None or first is None else mixture.segments_of(piece.receiver_points)
            invariants = radial(piece, *elements)
            if frozen and self.act.gate and self.act.max_degree > 0 and not written_out(x):
                whole = [(0, 0, piece.senders.shape[0])]
                maps = [
                    Maps(start, end, self.so2_conv_1.matrices(first, group), self.so2_conv_2.matrices(second, group))
                    for group, start, end in segments or whole
                ]
                return (gated_messages(x, invariants, radial.last(), maps, piece),)
            scales = F.linear(invariants, *radial.last())
            hidden, gates = self.so2_conv_1.in_segments(join_rotate(x, piece), scales, first, segments)
            message, _ = self.so2_conv_2.in_segments(self.act(hidden, gates), None, second, segments)
            (rotation,) = piece.rotation.blocks
            fading = cast(Tensor, piece.envelope)[:, None]
            return (rotate_sum(message, fading, self.cast("rescaled", x.dtype), rotation, piece),)

        return over_receivers(aggregate, edges, self.width, x.shape[0])[0]
