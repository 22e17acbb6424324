"""What the surroundings of an atom add to its features at the start."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.recompute import recomputed
from equiformer_pytorch.published.radial import RadialNetwork, element_embeddings
from equiformer_pytorch.so3.rows import components, rescaled_rows


class EdgeDegreeEmbedding(ExactConstants):
    r""":math:`y_i = \frac{1}{N}\sum_j u_{ij}\,D_{ij}^T s\,w_{ij}`: radial weights w of order 0 in the frame of each
    edge, turned back and summed, over the average number N of neighbours (Equiformer, section 4.4).

    Args:
        channels: of y.
        radial_widths: (basis, hidden, hidden); the element embeddings come on top.
        elements: how many there are, 0 for no element embeddings.
        average: N.
        rescaled: whether s makes up for the orders that other maps leave out; else it is one.
    """

    def __init__(
        self,
        channels: int,
        max_degree: int,
        max_order: int,
        radial_widths: tuple[int, ...],
        elements: int,
        average: float,
        *,
        rescaled: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.max_degree, self.average = channels, max_degree, average
        self.source_embedding = self.target_embedding = None
        widths = list(radial_widths)
        if elements:
            self.source_embedding, self.target_embedding = element_embeddings(elements, widths[-1])
            widths[0] += 2 * widths[-1]
        self.rad_func = RadialNetwork((*widths, (max_degree + 1) * channels))
        self.constant("rescaled", rescaled_rows, max_degree, 0, max_order if rescaled else max_degree)

    def forward(
        self,
        edges: EdgeGraph,
        atoms: Float[Tensor, "atoms *rest"],
        elements: tuple[nn.Embedding | None, nn.Embedding | None] | None = None,
    ) -> Float[Tensor, "atoms components channels"]:
        """Of the edges; `atoms` is any feature of the atoms, for their number and dtype, and `elements` the embeddings
        of senders and receivers where all layers share them."""
        elements = (self.source_embedding, self.target_embedding) if elements is None else elements
        width = components(self.max_degree) * self.channels
        return over_receivers(lambda piece: (self._aggregate(piece, *elements),), edges, width, atoms.shape[0])[0]

    def _aggregate(
        self, edges: EdgeGraph, sender: nn.Embedding | None, receiver: nn.Embedding | None
    ) -> Float[Tensor, "receivers components channels"]:
        radial = self.rad_func(edges, sender, receiver)
        factors = self.cast("rescaled", radial.dtype)[:, None]
        if edges.envelope is not None:
            factors = factors * edges.envelope[:, None, None]

        def collect(radial: Tensor, factors: Tensor, rotation: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            weights = F.linear(radial, weight, bias).unflatten(1, (self.max_degree + 1, self.channels)) * factors
            return edges.sum_receivers(rotation[:, : self.max_degree + 1].mT @ weights) / self.average

        return recomputed(collect, radial, factors, edges.rotation.blocks[0], *self.rad_func.last())
