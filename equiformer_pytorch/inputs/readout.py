"""From the flat features of the layers to what a call returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.inputs.layout import Layout
from equiformer_pytorch.layers.fiber import Fiber


class Return(NamedTuple):
    """Output of :class:`Equiformer`; unpacks into two. A flat call has n points where a dense one has (b, n)."""

    type0: Float[Tensor, ...]
    """Invariants (b, n, c), or (b, n) with `reduce_dim_out`."""
    type1: Float[Tensor, "... 3"] | None
    """Vectors (b, n, c, 3), or (b, n, 3) with `reduce_dim_out`; None where only degree 0 is read out."""


class AttentionWeights(NamedTuple):
    """Attention of one layer and degree. A flat call has n points where a dense one has (b, n)."""

    weights: Float[Tensor, "*size heads slots"]
    """Share of each slot; zero for empty slots. With `attend_self` slot 0 is the point itself."""
    indices: Int[Tensor, "*size slots"]
    """The point that each slot refers to, −1 for empty slots."""


def read_out(
    x: Float[Tensor, "points width"],
    fiber: Fiber,
    graph: EdgeGraph,
    layout: Layout,
    *,
    pooled: bool,
    reduced: bool,
    all_degrees: bool,
) -> Return | dict[int, Tensor]:
    """Outputs per degree in the caller's layout, or the mean over each structure; orders last."""
    if pooled:
        x = layout.table.sum(x) / layout.counts.clamp(min=1)[:, None]
    parts = [part.mT if pooled else layout.expand(part.mT) for part in fiber.split(x)]
    if all_degrees:
        return dict(enumerate(parts))
    if reduced:
        parts = [part.squeeze(-2) for part in parts]
    return Return(parts[0].squeeze(-1), parts[1] if len(parts) > 1 else None)


def attention_weights(
    weights: list[list[Float[Tensor, "points _heads slots"]]], graph: EdgeGraph, layout: Layout, attend_self: bool
) -> list[list[AttentionWeights]]:
    """The weights of each layer and degree with the point that each slot refers to, in the caller's layout."""
    table, _ = graph.laid_out()
    slots = table.spread(layout.name[graph.senders])
    if table.mask is not None:
        slots = slots.masked_fill(~table.mask, -1)
    if attend_self:
        slots = torch.cat((layout.name[:, None], slots), dim=1)
    indices = layout.expand(slots, fill=-1)
    return [[AttentionWeights(layout.expand(w), indices) for w in layer] for layer in weights]
