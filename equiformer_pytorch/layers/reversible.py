"""The reversible pass: forward without a graph, backward by inverting block after block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from equiformer_pytorch.graph.edges import EdgeGraph

Parameters = list[tuple[dict[str, Tensor], dict[str, Tensor]]]
"""By name, of the attention and the feed-forward of each block."""


def reversible_blocks(
    blocks: Sequence[nn.ModuleList], x: Float[Tensor, "points width"], graph: EdgeGraph, weights: list | None
) -> tuple[Float[Tensor, "points width"], Float[Tensor, "points width"]]:
    """The two streams after the (attention, feed-forward) blocks, with first-order gradients for the input, the
    graph's tensors and every parameter. Differentiating those gradients again is an error.

    Under the transforms of ``torch.func``, which cannot look into the backward pass, the streams are left to autograd:
    derivatives of every order, and memory that grows with depth.
    """
    if not blocks:
        return x, x
    if torch._C._are_functorch_transforms_active():
        return _recurrence(blocks, x, graph, weights)
    flat = [p for block in blocks for layer in block for p in layer.parameters()]
    return _Reversible.apply(blocks, graph, weights, x, *graph.tensors(), *flat)


def _recurrence(
    blocks: Sequence[nn.ModuleList], x: Tensor, graph: EdgeGraph, weights: list | None
) -> tuple[Tensor, Tensor]:
    """Both streams after all blocks."""
    x1 = x2 = x
    for attention, feed_forward in blocks:
        y, of_layer = attention(x2, graph, with_weights=weights is not None)
        x1 = x1 + y
        x2 = x2 + feed_forward(x1, condition=graph.condition)
        if weights is not None:
            weights.append(of_layer)
    return x1, x2


class _Reversible(torch.autograd.Function):
    """Takes every tensor that the blocks read as an argument, and returns a gradient for each."""

    @staticmethod
    def forward(blocks: Sequence[nn.ModuleList], graph: EdgeGraph, weights: list | None, x: Tensor, *tensors: Tensor):
        # The parameters among the tensors are those that the blocks hold at this moment.
        return _recurrence(blocks, x, graph.with_tensors(tensors[: len(graph.tensors())]), weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.blocks, ctx.graph, _, x, *tensors = inputs
        device = x.device.type
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }
        ctx.save_for_backward(*output, x, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        dy1, dy2 = grad_outputs
        y1, y2, x, *tensors = ctx.saved_tensors
        needs = list(zip(tensors, ctx.needs_input_grad[4:], strict=True))
        wanted = [t for t, need in needs if need]
        leaves = {id(t): t.detach().requires_grad_(need) for t, need in needs}
        graph, parameters = _unpack(ctx.blocks, ctx.graph, [leaves[id(t)] for t in tensors])
        edge_leaves = [t for t in graph.tensors() if t.requires_grad]
        sums: dict[int, Tensor] = {}
        dy1, dy2, y1, y2 = dy1.detach(), dy2.detach(), y1.detach(), y2.detach()

        with torch.autocast(**ctx.autocast):
            for block, (for_attention, for_feed_forward) in zip(
                reversed(ctx.blocks), reversed(parameters), strict=True
            ):
                attention, feed_forward = block
                with torch.enable_grad():
                    inner = y1.requires_grad_()
                    g = functional_call(feed_forward, for_feed_forward, (inner,), {"condition": graph.condition})
                dy1 = dy1 + _pull_back(g, dy2, inner, [*edge_leaves, *for_feed_forward.values()], sums)
                y1 = y1.detach()
                y2 = y2 - g.detach()
                with torch.enable_grad():
                    inner = y2.requires_grad_()
                    f, _ = functional_call(attention, for_attention, (inner, graph), {"with_weights": False})
                dy2 = dy2 + _pull_back(f, dy1, inner, [*edge_leaves, *for_attention.values()], sums)
                y2 = y2.detach()
                y1 = y1 - f.detach()

        dx = dy1 + dy2 if ctx.needs_input_grad[3] else None
        gradients = [sums.get(id(leaves[id(t)])) if need else None for t, need in needs]
        if torch.is_grad_enabled():
            sources = [t for t in (x, *wanted) if t.requires_grad]
            dx, *gradients = (None if t is None else _RefuseSecondOrder.apply(t, *sources) for t in (dx, *gradients))
        return (None, None, None, dx, *gradients)


def _unpack(
    blocks: Sequence[nn.ModuleList], graph: EdgeGraph, tensors: Sequence[Tensor]
) -> tuple[EdgeGraph, Parameters]:
    """The graph with the first tensors, and the rest as the parameters, by name, of each block's two layers."""
    edge_tensors = len(graph.tensors())
    graph, rest = graph.with_tensors(tuple(tensors[:edge_tensors])), iter(tensors[edge_tensors:])

    def take(layer: nn.Module) -> dict[str, Tensor]:
        return {name: next(rest) for name, _ in layer.named_parameters()}

    return graph, [(take(attention), take(feed_forward)) for attention, feed_forward in blocks]


def _pull_back(
    output: Tensor, gradient: Tensor, inner: Tensor, leaves: Any, sums: dict[int, Tensor]
) -> Float[Tensor, "points width"]:
    """Add the gradients of the leaves to `sums`; return that of the input."""
    leaves = [t for t in leaves if t.requires_grad]
    first, *rest = torch.autograd.grad(output, [inner, *leaves], gradient.to(output.dtype), allow_unused=True)
    for leaf, grad in zip(leaves, rest, strict=True):
        if grad is not None:
            sums[id(leaf)] = sums[id(leaf)] + grad if id(leaf) in sums else grad
    return first if first is not None else torch.zeros_like(inner)


class _RefuseSecondOrder(torch.autograd.Function):
    """The identity on a gradient, which cannot itself be differentiated."""

    @staticmethod
    def forward(gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        raise RuntimeError(
            "second-order gradients of a model with reversible=True are not available: "
            "its activations are recomputed, not recorded; build the model with reversible=False"
        )
