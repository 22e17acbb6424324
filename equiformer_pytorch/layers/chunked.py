"""Edge work in pieces, so that its memory does not grow with the structure."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equiformer_pytorch.base.tracing import exporting
from equiformer_pytorch.graph.edges import Graph

# Numbers that one tensor of edge features may hold: 256 MiB in float32.
LARGEST = 2**26


def over_receivers(
    function: Callable[[Tensor, Tensor, Graph], tuple[Tensor, Tensor]],
    x: Float[Tensor, "points width"],
    sender: Float[Tensor, "points width_sender"],
    graph: Graph,
    width: int,
) -> tuple[Float[Tensor, "points width_out"], Float[Tensor, "points heads slots"]]:
    """``function(x of some receivers, sender features of all, their graph)`` for all receivers: features and weights.

    Where edge tensors of `width` numbers per edge would exceed :data:`LARGEST`, receivers are taken in pieces, whose
    activations are computed again in the backward pass. The result is the same. The transforms of ``torch.func`` do
    not allow that, and an exported program does not know its sizes: there all receivers are taken at once.
    """
    table = graph.neighbours
    at_once = exporting() or torch._C._are_functorch_transforms_active()
    if at_once or table.rows * table.columns * width <= LARGEST:
        return function(x, sender, graph)
    outputs, weights = [], []
    for rows, piece in graph.chunks(max(LARGEST // width, 1)):
        if torch.is_grad_enabled():
            recomputed = checkpoint(function, x[rows], sender, piece, use_reentrant=False, preserve_rng_state=False)
            output, weight = recomputed
        else:
            output, weight = function(x[rows], sender, piece)
        outputs.append(output)
        weights.append(F.pad(weight, (0, table.columns - piece.neighbours.columns)))
    return torch.cat(outputs), torch.cat(weights)
