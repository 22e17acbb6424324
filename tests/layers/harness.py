"""Layers on their own: the graph that a model builds, and layers as functions that `assert_equivariant` takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiformer_pytorch import Equiformer
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.fiber import Fiber, join
from tests.models import Example


def graph_of(model: Equiformer, sample: Example) -> EdgeGraph:
    """What the model's layers are given for this structure."""
    caught = []
    handle = model.embed.register_forward_pre_hook(lambda _, args: caught.append(args[1]))
    sample.all_degrees(model)
    handle.remove()
    return caught[0]


def features(fiber: Fiber, batch: int, points: int, seed: int = 5) -> dict[int, Tensor]:
    """Random features of every degree, dense."""
    g = torch.Generator().manual_seed(seed)
    return {d: torch.randn(batch, points, c, 2 * d + 1, generator=g, dtype=torch.float64) for d, c in enumerate(fiber)}


def flatten(dense: dict[int, Tensor]) -> Tensor:
    """Dense features to the flat layout of the layers."""
    return join([dense[d].flatten(0, 1).mT for d in sorted(dense)])


def unflatten(flat: Tensor, fiber: Fiber, batch: int) -> dict[int, Tensor]:
    """And back."""
    return {d: part.mT.unflatten(0, (batch, -1)) for d, part in enumerate(fiber.split(flat))}


def as_function(layer: Callable, fiber_out: Fiber, model: Equiformer | None = None) -> Callable:
    """`layer(x)`, or `layer(x, graph)` with the graph of `model`, from dense features to dense features."""

    def function(inputs: dict[int, Tensor], coors: Tensor) -> dict[int, Tensor]:
        batch, points = coors.shape[:2]
        x = flatten(inputs)
        if model is None:
            return unflatten(layer(x), fiber_out, batch)
        structure = Example(torch.zeros(batch, points, model.dim_in[0]).to(x), coors)
        out = layer(x, graph_of(model, structure))
        return unflatten(out[0] if isinstance(out, tuple) else out, fiber_out, batch)

    return function
