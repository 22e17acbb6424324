"""Features into the frames of edges, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import Rotation, block_rows
from equiformer_pytorch.ops.dispatch import operation


@operation
def gather_rotate(
    sender: Float[Tensor, "points components channels"],
    receiver: Float[Tensor, "receivers components channels"],
    graph: EdgeGraph,
    max_order: int,
) -> Float[Tensor, "edges rows channels"]:
    r""":math:`D_{ij}\,(b_j + a_i)`: a feature of the sender and one of the receiver, added and turned into the frame.

    Args:
        sender, receiver: degree-major.
        max_order: the rows wanted, order-major as in :func:`~equiformer_pytorch.so3.rows.order_major_rows`.
    """
    gathered = sender.index_select(0, graph.senders)
    if graph.table is not None and graph.table.index is None:
        ends = (graph.table.spread(gathered) + receiver[:, None]).flatten(0, 1)
    else:
        ends = gathered + receiver.index_select(0, graph.receivers)
    return rotate_in(ends, graph.rotation, max_order)


@operation
def rotate_in(
    x: Float[Tensor, "edges components channels"], rotation: Rotation, max_order: int
) -> Float[Tensor, "edges rows channels"]:
    """Features of some degrees, degree-major, in the frames of the edges: rows order-major, |m| ≤ `max_order`."""
    degrees = round(x.shape[1] ** 0.5)
    if degrees == 1:
        return x
    blocks, spans = rotation.restricted(degrees, max_order), rotation.spans
    if len(blocks) == 1:
        return torch.bmm(blocks[0], x)
    columns = x.split([min(high, degrees) ** 2 - low**2 for low, high in spans[: len(blocks)]], dim=1)
    turned = [torch.bmm(block, part) for block, part in zip(blocks, columns, strict=True)]
    by_block = [
        part.split(_rows_of_orders(low, min(high, degrees), max_order), dim=1)
        for part, (low, high) in zip(turned, spans, strict=False)
    ]
    signed = 2 * max_order + 1
    return torch.cat([parts[k] for k in range(signed) for parts in by_block if k < len(parts)], dim=1)


@operation
def rotate_out(
    y: Float[Tensor, "edges rows channels"], rotation: Rotation, degrees: int, max_order: int
) -> Float[Tensor, "edges components channels"]:
    """The inverse of :func:`rotate_in`; orders above `max_order` count as zero."""
    if degrees == 1:
        return y
    blocks, spans = rotation.restricted(degrees, max_order), rotation.spans
    if len(blocks) == 1:
        return torch.bmm(blocks[0].mT, y)
    sizes = [_rows_of_orders(low, min(high, degrees), max_order) for low, high in spans[: len(blocks)]]
    signed = 2 * max_order + 1
    order = [(k, b) for k in range(signed) for b, of_block in enumerate(sizes) if k < len(of_block)]
    pieces = y.split([sizes[b][k] for k, b in order], dim=1)
    held: list[list[Tensor]] = [[] for _ in blocks]
    for (_, b), piece in zip(order, pieces, strict=True):
        held[b].append(piece)
    turned = [torch.bmm(block.mT, torch.cat(parts, dim=1)) for block, parts in zip(blocks, held, strict=True)]
    return torch.cat(turned, dim=1)


def _rows_of_orders(low: int, high: int, max_order: int) -> list[int]:
    """How many rows of a block belong to the orders 0, +1, −1, +2, …"""
    rows = block_rows(low, high, max_order)
    orders = [0, *(sign * m for m in range(1, min(max_order, high - 1) + 1) for sign in (1, -1))]
    return [sum(order == m for _, order in rows) for m in orders]
