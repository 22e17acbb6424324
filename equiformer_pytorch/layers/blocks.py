"""Stacks of blocks, each an attention and a feed-forward with residual connections."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.attention.base import Attention
from equiformer_pytorch.layers.feedforward import FeedForward
from equiformer_pytorch.layers.rearranged import Matrices, Part, TakesMatrices
from equiformer_pytorch.layers.reversible import reversible_blocks

Weights = list[list[Float[Tensor, "points _heads slots"]]]


class SequentialBlocks(nn.Module):
    r""":math:`x \leftarrow x + f(x)`, :math:`x \leftarrow x + g(x)` for attention f and feed-forward g of each block.

    A block may read out fewer degrees than it takes in; those of its input that it leaves out are dropped.

    Args:
        blocks: attention and feed-forward of each.
    """

    def __init__(self, blocks: list[tuple[Attention, FeedForward]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)

    def parts(self) -> list[Part]:
        """What the matrices of all layers are made with."""
        return [part for block in self.blocks for layer in cast("list[TakesMatrices]", block) for part in layer.parts()]

    def forward(
        self,
        x: Float[Tensor, "points width"],
        graph: EdgeGraph,
        weights: Weights | None = None,
        made: Matrices | None = None,
    ) -> Float[Tensor, "points width_out"]:
        """`weights`, where given, is filled with the attention weights of each layer and degree; `made` are the
        matrices of :meth:`parts`."""
        matrices = iter([build(given) for build, given in self.parts()] if made is None else made)
        for attention, feed_forward in cast("list[tuple[Attention, FeedForward]]", self.blocks):
            y, of_layer = attention(x, graph, [next(matrices) for _ in attention.parts()], weights is not None)
            if weights is not None:
                weights.append(of_layer)
            x = (x if y.shape[-1] == x.shape[-1] else x[:, : y.shape[-1]]) + y
            x = x + feed_forward(x, [next(matrices) for _ in feed_forward.parts()], graph.condition)
        return x


class ReversibleBlocks(nn.Module):
    r"""Two streams, both started with x and averaged at the end (Gomez et al. 2017, section 3.1):
    :math:`y_1 = x_1 + f(x_2)`, :math:`y_2 = x_2 + g(y_1)`.

    The inputs of a block follow from its outputs, so that the backward pass recomputes them and activation memory
    does not grow with depth. A last block that drops degrees cannot be inverted and keeps its activations.

    Args:
        blocks: attention and feed-forward of each.
    """

    def __init__(self, blocks: list[tuple[Attention, FeedForward]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        for block in blocks:
            for layer in block:
                layer.rearrange()

    def parts(self) -> list[Part]:
        """None: the layers make their matrices themselves, time and again."""
        return []

    def forward(
        self,
        x: Float[Tensor, "points width"],
        graph: EdgeGraph,
        weights: Weights | None = None,
        made: Matrices | None = None,
    ) -> Float[Tensor, "points width_out"]:
        """As :meth:`SequentialBlocks.forward`."""
        blocks = cast("list[nn.ModuleList]", list(self.blocks))
        attentions = [cast(Attention, attention) for attention, _ in blocks]
        invertible = [b for b, a in zip(blocks, attentions, strict=True) if len(a.fiber_out) == len(a.fiber)]
        x1, x2 = reversible_blocks(invertible, x, graph, weights)
        for attention, feed_forward in blocks[len(invertible) :]:
            y, of_layer = attention(x2, graph, with_weights=weights is not None)
            if weights is not None:
                weights.append(of_layer)
            width = y.shape[-1]
            x1 = x1[:, :width] + y
            x2 = x2[:, :width] + feed_forward(x1, condition=graph.condition)
        return (x1 + x2) / 2
