"""From input features to features of all degrees."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import Graph
from equiformer_pytorch.layers.chunked import over_receivers
from equiformer_pytorch.layers.conv import Conv
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear


class NeighbourEmbedding(nn.Module):
    r"""Raises input features to the degrees of the model:

    .. math:: y_i = A x_i + B\,\frac{\sum_j u_{ij} m_{ij}}{1 + \sum_j u_{ij}},

    a mean over the messages of the neighbours, in which the point itself counts for one, so that it is smooth when
    the last neighbour leaves through the envelope u.
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

    def forward(self, x: Float[Tensor, "points width_in"], graph: Graph) -> Float[Tensor, "points width_out"]:
        own = self.own(x)
        mean, _ = over_receivers(self._mean, x, self.conv.from_sender(x), graph, self.conv.width)
        return F.pad(own, (0, self.fiber_out.width - own.shape[-1])) + self.to_out(mean)

    def _mean(self, x: Tensor, sender: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Mean message of each receiver, and the weights."""
        envelope = graph.spread_envelope()
        weights = (envelope / (1 + envelope.sum(-1, keepdim=True)))[:, None]
        orders, _ = self.conv(x, sender, graph)
        messages = graph.neighbours.spread(graph.rotation.restore(orders).flatten(1))
        return torch.bmm(weights.to(messages.dtype), messages).squeeze(1), weights
