"""Features into the frames of edges, and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import Rotation, block_rows
from equiformer_pytorch.ops.dispatch import operation, written_out
from equiformer_pytorch.ops.recompute import product_in_pieces

# Of torch.embedding_bag.
SUM = 0


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
    if written_out(sender, receiver):
        ends = sender.index_select(0, graph.senders) + receiver.index_select(0, graph.receivers)
    else:
        ends = _SumOfEnds.apply(graph, sender, receiver)
    return rotate_in(ends, graph.rotation, max_order)  # pyright: ignore[reportArgumentType]


class _SumOfEnds(torch.autograd.Function):
    """Each edge is written once; derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, graph: EdgeGraph, sender: Tensor, receiver: Tensor) -> Tensor:
        ctx.graph, ctx.points = graph, sender.shape[0]
        rows, first = graph.ends
        both = torch.cat((receiver, sender)).flatten(1)
        ends, *_ = torch.embedding_bag(both, rows, first, mode=SUM)
        return ends.unflatten(1, sender.shape[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        graph, slope = ctx.graph, slopes[0]
        of_sender = slope.new_zeros(ctx.points, *slope.shape[1:]).index_add_(0, graph.senders, slope)
        if graph.table is not None and graph.table.index is None:
            return None, of_sender, graph.table.spread(slope).sum(1)
        return None, of_sender, graph.sum_receivers(slope)


@operation
def rotate_in(
    x: Float[Tensor, "edges components channels"], rotation: Rotation, max_order: int
) -> Float[Tensor, "edges rows channels"]:
    """Features of some degrees, degree-major, in the frames of the edges: rows order-major, `|m|` ≤ `max_order`."""
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


@operation
def join_rotate(
    x: Float[Tensor, "points components channels"], graph: EdgeGraph
) -> Float[Tensor, "edges rows two_channels"]:
    r""":math:`D_{ij}\,[x_j, x_i]`: the features of sender and receiver side by side, in the frame; in pieces that stay
    in the cache, of which nothing is kept but x and D. For rotations of one block."""

    def joined(rotation: Tensor, senders: Tensor, receivers: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return rotation, x.index_select(0, senders), x.index_select(0, receivers)

    ends = *graph.rotation.blocks, graph.senders, graph.receiver_points
    # Each piece gives a gradient of all points.
    return product_in_pieces(joined, ends, (x,), x.shape[1] * x.shape[2], 2 * x.shape[0])


@operation
def weigh_rotate(
    x: Float[Tensor, "points components channels"],
    radial: Float[Tensor, "edges hidden"],
    weight: Float[Tensor, "weights hidden"],
    bias: Float[Tensor, " weights"],
    degree: Int[Tensor, " components"],
    graph: EdgeGraph,
) -> Float[Tensor, "edges rows channels"]:
    r""":math:`D_{ij}\,(w_{ij} ⊙ x_j + v_{ij} ⊙ x_i)` with weights (w, v) = W r + b of each degree and channel, r of
    the edge; in pieces like :func:`join_rotate`.

    Args:
        degree: of each component.
    """

    def weighed(
        rotation: Tensor, senders: Tensor, receivers: Tensor, radial: Tensor, x: Tensor, *last: Tensor
    ) -> tuple[Tensor, ...]:
        weights = F.linear(radial, *last).unflatten(1, (-1, 2 * x.shape[2])).index_select(1, degree)
        of_sender, of_receiver = weights.chunk(2, dim=2)
        return rotation, x.index_select(0, senders) * of_sender + x.index_select(0, receivers) * of_receiver

    ends = *graph.rotation.blocks, graph.senders, graph.receiver_points, radial
    return product_in_pieces(weighed, ends, (x, weight, bias), x.shape[1] * x.shape[2], 2 * x.shape[0])


@operation
def rotate_sum(
    messages: Float[Tensor, "edges rows heads_channels"],
    weights: Float[Tensor, "edges heads"],
    rescaled: Float[Tensor, " rows"],
    rotation: Float[Tensor, "edges rows components"],
    graph: EdgeGraph,
) -> Float[Tensor, "receivers components heads_channels"]:
    r""":math:`\sum_j D_{ij}^T\,(s ⊙ α_{ij} m_{ij})`: messages turned back, each head times its weight and each row
    times its factor s, and summed over the edges of each receiver; in pieces like :func:`join_rotate`."""

    def turned_back(rotation: Tensor, message: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        factors = alpha[:, None] * rescaled[:, None]
        weighted = message.unflatten(2, (alpha.shape[1], -1)) * factors[..., None]
        return rotation.mT, weighted.flatten(2)

    width = rotation.shape[2] * messages.shape[2]
    return graph.sum_receivers(product_in_pieces(turned_back, (rotation, messages, weights), (), width))


def _rows_of_orders(low: int, high: int, max_order: int) -> list[int]:
    """How many rows of a block belong to the orders 0, +1, −1, +2, …"""
    rows = block_rows(low, high, max_order)
    orders = [0, *(sign * m for m in range(1, min(max_order, high - 1) + 1) for sign in (1, -1))]
    return [sum(order == m for _, order in rows) for m in orders]
