"""From input features to features of all degrees."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph import Graph
from equiformer_pytorch.layers.conv import Conv, rotate_back
from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.layers.linear import Linear


class NeighbourEmbedding(nn.Module):
    r"""Raises input features to the degrees of the model:

    .. math:: y_i = A x_i + B\,\frac{\sum_j u_{ij} m_{ij}}{1 + \sum_j u_{ij}},

    a mean over the messages of the neighbours, in which the point itself counts for one, so that it is smooth when
    the last neighbour leaves through the envelope u.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        *,
        radial_dim: int,
        reflection_equivariant: bool,
        radial_mixture: int | None,
    ) -> None:
        super().__init__()
        self.fiber_out = fiber_out
        self.own = Linear(fiber_in, fiber_out.keep(len(fiber_in)), bias=True)
        self.conv = Conv(
            fiber_in,
            fiber_out,
            radial_dim=radial_dim,
            reflection_equivariant=reflection_equivariant,
            radial_mixture=radial_mixture,
        )
        self.to_out = Linear(fiber_out, fiber_out)

    def forward(self, x: Float[Tensor, "points width_in"], graph: Graph) -> Float[Tensor, "points width_out"]:
        envelope = graph.neighbours.spread(graph.envelope)
        if graph.neighbours.mask is not None:
            envelope = envelope * graph.neighbours.mask
        weights = (envelope / (1 + envelope.sum(-1, keepdim=True)))[:, None].to(x.dtype)
        messages = rotate_back(self.conv(x, graph), graph)
        means = [torch.bmm(weights, graph.neighbours.spread(m.flatten(1)).to(x.dtype)) for m in messages]
        own = self.own(x)
        return F.pad(own, (0, self.fiber_out.width - own.shape[-1])) + self.to_out(join(means))
