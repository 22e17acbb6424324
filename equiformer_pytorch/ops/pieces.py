"""Work on edges or points in pieces, so that its memory does not grow with the structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equiformer_pytorch.base.tracing import exporting
from equiformer_pytorch.graph.edges import EdgeGraph

# Numbers that one tensor may hold before its rows are taken in pieces whose work is done again in the backward pass:
# 256 MiB in float32.
LARGEST = 2**26
# The same on a CPU of pieces where nothing is recorded, 32 MiB in float32; larger tensors are fresh pages every time,
# which cost more than the arithmetic on them. Half of it where pieces are kept, since then some are twice as wide.
REUSED = 2**23


def over_receivers(
    function: Callable[..., tuple[Tensor, ...]],
    graph: EdgeGraph,
    width: int,
    points: int,
    of_receivers: Sequence[Tensor | None] = (),
    *,
    weights: int | None = None,
) -> tuple[Float[Tensor, "receivers ..."], ...]:
    """``function(graph, *of_receivers)``, in pieces of the receivers where edge tensors would be large.

    Where tensors of `width` numbers per edge (or slot of the table) would exceed `LARGEST`, the activations of a piece
    are computed again in the backward pass; on a CPU, where `weights` are told and few, there are pieces long before
    that. The result is the same. The transforms of ``torch.func`` do not allow that, and an exported program does not
    know its sizes: there all are taken at once.

    Args:
        function: of the graph of some receivers' edges and what belongs to these receivers; its results begin with the
            receivers.
        points: how many there are, since each piece gives a gradient of all.
        of_receivers: tensors that have a row for each receiver.
        weights: how many entries the matrices have that the function multiplies by, since each piece gives gradients
            of all; None: nothing is cut before `LARGEST`.
    """
    edges = graph.senders.shape[0] if graph.table is None else graph.table.rows * graph.table.columns
    # So many edges that the gradients of all points and weights cost little beside them.
    least = 2 * points + (weights or 0) // max(width, 1)
    kept = weights is not None
    most, again = _piece(graph.scalars, edges, width, least, kept)
    if most >= edges:
        return function(graph, *of_receivers)
    if kept and not again and graph.table is not None:  # whole receivers, or a few would be left over
        most = -(-most // graph.table.columns) * graph.table.columns
    pieces = [piece for _, piece in graph.pieces(most)]
    counts = [piece.count for piece in pieces]
    parts = [(None,) * len(pieces) if x is None else x.split(counts) for x in of_receivers]
    run = partial(_remembered, function) if again else function
    found = [run(piece, *of_piece) for piece, *of_piece in zip(pieces, *parts, strict=True)]
    return tuple(torch.cat(results) for results in zip(*found, strict=True))


def over_points(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "points *rest"], width: int
) -> Float[Tensor, "points *out"]:
    """``function(features of points)``, which acts on each point alone, in pieces like :func:`over_receivers`."""
    most, again = _piece(x, x.shape[0], width, 1, False)
    if most >= x.shape[0]:
        return function(x)
    return torch.cat([_remembered(function, part) if again else function(part) for part in x.split(most)])


def _piece(x: Tensor, count: int, width: int, least: int, kept: bool) -> tuple[int, bool]:
    """How many of `count` edges or points go into a piece, at least `least` if something is recorded, and whether its
    work is done again in the backward pass; with `kept` there may be pieces also where it is not."""
    if exporting() or torch._C._are_functorch_transforms_active():
        return count, False
    most = max(LARGEST // width, 1)
    reused = x.device.type == "cpu" and not torch.compiler.is_compiling()
    small = max(REUSED // width, 1) if reused else most
    if not torch.is_grad_enabled():
        return min(small, most), False
    if count > most:
        return min(max(small, least), most), True
    if not (kept and reused):
        return count, False
    pieces = min(-(-count // max(REUSED // 2 // width, 1)), count // max(least, 1))
    return -(-count // max(pieces, 1)), False


def _remembered(function: Callable[..., Any], *given: Any) -> Any:
    """``function(*given)``, of which only what is given is kept."""
    return checkpoint(function, *given, use_reentrant=False)
