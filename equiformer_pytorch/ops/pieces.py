"""Work on edges or points in pieces, so that its memory does not grow with the structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equiformer_pytorch.base.tracing import exporting
from equiformer_pytorch.graph.edges import EdgeGraph

# Numbers that one tensor may hold before its rows are taken in pieces: 256 MiB in float32.
LARGEST = 2**26
# The same where nothing is recorded, and the size of the pieces, on a CPU: 32 MiB in float32. Larger tensors are fresh
# pages every time, which cost more than the arithmetic on them.
REUSED = 2**23


def over_receivers(
    function: Callable[[slice, EdgeGraph], tuple[Tensor, ...]], graph: EdgeGraph, width: int, points: int
) -> tuple[Float[Tensor, "receivers ..."], ...]:
    """``function(receivers, their graph)`` for all receivers.

    Where edge tensors of `width` numbers per edge (or slot of the table) would exceed `LARGEST`, receivers are
    taken in pieces, whose activations are computed again in the backward pass. The result is the same. The transforms
    of ``torch.func`` do not allow that, and an exported program does not know its sizes: there all are taken at once.

    Args:
        function: of a range of receivers and the graph of their edges; its results begin with the receivers.
        points: how many there are, since each piece gives a gradient of all.
    """
    edges = graph.senders.shape[0] if graph.table is None else graph.table.rows * graph.table.columns
    # So many edges that the gradient of all points costs little beside them.
    most = None if _at_once() else _piece(graph.scalars, edges, width, 2 * points)
    if most is None:
        return function(slice(0, graph.count), graph)
    found = [_remembered(function, rows, piece) for rows, piece in graph.pieces(most)]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def cut(x: Float[Tensor, "points *rest"], rows: slice) -> Float[Tensor, "receivers *rest"]:
    """The rows of some receivers; x itself where they are all."""
    return x if rows == slice(0, x.shape[0]) else x[rows]


def over_points(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "points *rest"], width: int
) -> Float[Tensor, "points *out"]:
    """``function(features of points)``, which acts on each point alone, in pieces like :func:`over_receivers`."""
    most = None if _at_once() else _piece(x, x.shape[0], width, 1)
    if most is None:
        return function(x)
    return torch.cat([_remembered(function, part) for part in x.split(most)])


def _at_once() -> bool:
    return exporting() or torch._C._are_functorch_transforms_active()


def _piece(x: Tensor, count: int, width: int, least: int) -> int | None:
    """How many of `count` edges or points go into a piece, at least `least` if something is recorded; None for all."""
    most = max(LARGEST // width, 1)
    reused = x.device.type == "cpu" and not torch.compiler.is_compiling()
    small = max(min(REUSED, LARGEST) // width, 1) if reused else most
    if torch.is_grad_enabled():
        return None if count <= most else min(max(small, least), most)
    return None if count <= small else small


def _remembered(function: Callable[..., Any], *given: Any) -> Any:
    """``function(*given)``, of which only what is given is kept."""
    if not torch.is_grad_enabled():
        return function(*given)
    return checkpoint(function, *given, use_reentrant=False)
