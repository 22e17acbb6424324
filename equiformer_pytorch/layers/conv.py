"""The eSCN convolution: messages along edges, linear in the features, in the frame of the edge."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.so2 import SO2Linear


class Conv(nn.Module):
    r"""Message of every edge from the features of its two ends,

    .. math:: h_{ij} = \mathrm{SO2}_{w_{ij}}\bigl(D_{ij}\,(A x_i + B x_j)\bigr),

    still in the edge frame, so that invariant nonlinearities may follow before :func:`rotate_back`. A and B are
    per-degree linear maps of the points; the SO(2) map is :class:`SO2Linear` with radial weights w of the edge.
    (Passaro & Zitnick 2023, section 3.3; they concatenate the two ends, we add them, as Equiformer does.)
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        *,
        radial_dim: int,
        reflection_equivariant: bool,
        radial_mixture: int | None = None,
    ) -> None:
        super().__init__()
        self.fiber_in = fiber_in
        self.from_receiver = Linear(fiber_in, fiber_in, bias=True)
        self.from_sender = Linear(fiber_in, fiber_in)
        self.so2 = SO2Linear(
            fiber_in,
            fiber_out,
            radial_dim=radial_dim,
            reflection_equivariant=reflection_equivariant,
            radial_mixture=radial_mixture,
        )

    def forward(self, x: Float[Tensor, "points width"], graph: Graph) -> list[Float[Tensor, "edges order channels"]]:
        ends = graph.add_ends(self.from_sender(x), self.from_receiver(x))
        invariants, *higher = self.fiber_in.split(ends)
        rows = self.so2.max_order
        aligned = [invariants]
        for degree, part in enumerate(higher, start=1):
            aligned.append(torch.bmm(_rows(graph.wigner[degree - 1], degree, rows), part))
        return self.so2(aligned, graph.edge_embedding)


def rotate_back(parts: list[Float[Tensor, "edges order channels"]], graph: Graph) -> list[Tensor]:
    """Features in edge frames, orders up to some maximum, back to the common frame with all their orders."""
    turned = [parts[0]]
    for degree, part in enumerate(parts[1:], start=1):
        turned.append(torch.bmm(_rows(graph.wigner[degree - 1], degree, part.shape[1] // 2).mT, part))
    return turned


def _rows(wigner: Float[Tensor, "edges order order"], degree: int, max_order: int) -> Tensor:
    """The rows of orders −max_order … max_order."""
    cut = max(degree - max_order, 0)
    return wigner[:, cut : 2 * degree + 1 - cut]
