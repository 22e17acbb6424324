"""From input features to features of all degrees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.conv import Conv
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import JointProduct, JointProducts, is_narrow, ungrouped
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.rearranged import Matrices, Part, TakesMatrices
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.rotate import rotate_out


class NeighbourEmbedding(TakesMatrices):
    r"""Raises input features to the degrees of the model:

    .. math:: y_i = A x_i + B\,\frac{\sum_j u_{ij} m_{ij}}{1 + \sum_j u_{ij}},

    a mean over the messages of the neighbours, in which the point itself counts for one, so that it is smooth when
    the last neighbour leaves through the envelope u.

    Args:
        fiber_in, fiber_out: of the inputs, and of the model.
        radial_dim, reflection_equivariant: as in :class:`SO2Linear`.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber, *, radial_dim: int, reflection_equivariant: bool) -> None:
        super().__init__()
        self.fiber_out = fiber_out
        message = Fiber((max(fiber_out),) * len(fiber_out))
        self.own = Linear(fiber_in, fiber_out.keep(len(fiber_in)), bias=True)
        self.conv = Conv(
            fiber_in,
            len(message),
            message[0],
            radial_dim=radial_dim,
            reflection_equivariant=reflection_equivariant,
        )
        self.to_out = Linear(message, fiber_out)
        maps = [self.own, self.conv.from_sender, self.conv.from_receiver]
        narrow = is_narrow(fiber_in, [linear.fiber_out for linear in maps])
        self.ends = JointProduct(maps, {0: self._padded}) if narrow else JointProducts(maps)
        narrow = is_narrow(message, [fiber_out])
        self.out = JointProduct([self.to_out]) if narrow else JointProducts([self.to_out])

    def parts(self) -> list[Part]:
        """Maps of the ends, of the edges, of the sums."""
        return [(part.build, part.parameters_in_order()) for part in (self.ends, self.conv.so2, self.out)]

    def _padded(self, columns: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width_out"]:
        """With zeros for the degrees that the input does not have."""
        return F.pad(columns, (0, self.fiber_out.width - columns.shape[-1]))

    def forward(
        self, x: Float[Tensor, "points width_in"], graph: EdgeGraph, matrices: Matrices | None = None
    ) -> Float[Tensor, "points width_out"]:
        """`matrices` are those of :meth:`parts`."""
        for_ends, for_edges, for_out = self.own_matrices() if matrices is None else matrices
        if isinstance(self.ends, JointProduct):
            own, *ends = self.ends(x, for_ends)
            sender, receiver = (end.unflatten(1, (-1, self.conv.channels)) for end in ends)
        else:
            of_own, *ends = self.ends(self.ends.split(x), for_ends)
            own = self._padded(ungrouped(of_own.groups))
            sender, receiver = (end.rows() for end in ends)

        def mean(graph: EdgeGraph, receiver: Tensor) -> tuple[Tensor]:
            _, message = self.conv(sender, receiver, graph, for_edges)
            message = rotate_out(message, graph.rotation, self.conv.degrees_out, self.conv.so2.max_order)
            weights = mean_weights(graph)
            return (torch.bmm(weights.to(message.dtype).mT, graph.spread(message.flatten(1))).squeeze(1),)

        entries = sum(matrix.numel() for matrix in for_edges)
        (received,) = over_receivers(mean, graph, self.conv.width, x.shape[0], [receiver], weights=entries)
        if isinstance(self.out, JointProduct):
            return own + self.out(received, for_out)[0]
        return own + ungrouped(self.out(self.out.split(received), for_out)[0].groups)


def mean_weights(graph: EdgeGraph) -> Float[Tensor, "receivers slots 1"]:
    """u / (1 + Σ u) of each slot that is an edge."""
    table, slots = graph.laid_out()
    envelope = slots.envelope[:, slots.envelope.shape[1] - table.columns :]
    return envelope / (1 + envelope.sum(1, keepdim=True))
