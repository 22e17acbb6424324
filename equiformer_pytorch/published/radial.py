"""Functions of the length of an edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.radial import Envelope, evenly_spaced

__all__ = ["Envelope", "GaussianSmearing", "RadialNetwork", "element_embeddings"]


class GaussianSmearing(ExactConstants):
    r"""Gaussians :math:`\exp(-(d-\mu_k)^2 / 2\sigma^2)` with centres equally spaced on [0, `cutoff`] and σ twice their
    spacing (EquiformerV2, appendix D)."""

    def __init__(self, cutoff: float, count: int) -> None:
        super().__init__()
        if count < 2:
            raise ValueError(f"the radial basis needs at least two Gaussians, got {count}")
        self.count = count
        self.constant("centres", evenly_spaced, 0.0, cutoff, count)
        self.width = 2 * cutoff / (count - 1)

    def forward(self, distance: Float[Tensor, " edges"]) -> Float[Tensor, "edges basis"]:
        value = (-0.5 * ((distance[:, None] - self.cast("centres", distance.dtype)) / self.width).square()).exp()
        # Numbers below the smallest normal one make matrix products several times slower.
        return torch.where(value < torch.finfo(value.dtype).tiny, 0.0, value)


class RadialNetwork(nn.Module):
    """Linear maps with layer norms and SiLU between them, of the radial basis and embeddings of the two elements.

    The first map is split: its share of an element is computed per atom, not per edge. The last one, which makes many
    numbers of few, is left to :meth:`last`, so that those who use them need not keep them.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [_linear(widths[0], widths[1])]
        for i in range(1, len(widths) - 1):
            layers += [nn.LayerNorm(widths[i]), nn.SiLU(), _linear(widths[i], widths[i + 1])]
        self.net = nn.Sequential(*layers)

    def forward(
        self, edges: EdgeGraph, sender: nn.Embedding | None, receiver: nn.Embedding | None
    ) -> Float[Tensor, "edges hidden"]:
        """What goes into the last map."""
        weight, bias = _weight_and_bias(self.net[0])
        if sender is None or receiver is None:
            x = F.linear(edges.scalars, weight, bias)
        else:
            width = sender.embedding_dim
            of_basis, of_sender, of_receiver = weight.split([edges.scalars.shape[1], width, width], dim=1)
            x = F.linear(edges.scalars, of_basis, bias)
            x = x + F.linear(sender(edges.kinds), of_sender).index_select(0, edges.senders)
            x = x + F.linear(receiver(edges.kinds), of_receiver).index_select(0, edges.receiver_points)
        for layer in list(self.net)[1:-1]:
            x = layer(x)
        return x

    def last(self) -> tuple[Float[Tensor, "out hidden"], Float[Tensor, " out"]]:
        """Weight and bias of the last map."""
        return _weight_and_bias(self.net[-1])


def _weight_and_bias(linear: nn.Module) -> tuple[Tensor, Tensor]:
    """By attribute, since they need not be parameters: torch.func puts other tensors in their place."""
    made = cast(nn.Linear, linear)
    return made.weight, made.bias


def _linear(channels_in: int, channels_out: int) -> nn.Linear:
    made = nn.Linear(channels_in, channels_out)
    nn.init.uniform_(made.weight, -(channels_in**-0.5), channels_in**-0.5)
    nn.init.zeros_(made.bias)
    return made


def element_embeddings(elements: int, width: int) -> tuple[nn.Embedding, nn.Embedding]:
    """For the sender and the receiver of an edge, nearly zero at the start."""
    sender, receiver = nn.Embedding(elements, width), nn.Embedding(elements, width)
    nn.init.uniform_(sender.weight, -0.001, 0.001)
    nn.init.uniform_(receiver.weight, -0.001, 0.001)
    return sender, receiver
