"""Messages of gated SO(2) maps and their sums, where nothing is recorded but what a force needs; in pieces of edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops.so2 import Pair, add_pair

# Numbers of the widest tensor of a piece, 2 MiB in float32; and the least number of edges, so that reading the
# matrices, once for each piece, does not cost more than the products.
PIECE = 2**19
LEAST_EDGES = 128


class OrderMatrices(NamedTuple):
    """The matrices of an SO(2) map, (out, in); those of orders m > 0 are (U, V) below each other."""

    first: Float[Tensor, "_out _in"]
    bias: Float[Tensor, " _out"]
    others: Sequence[Float[Tensor, "_two_out _in"]]


class Maps(NamedTuple):
    """The two SO(2) maps of edges first … end − 1."""

    first: int
    end: int
    before: OrderMatrices
    """Its order 0 gives the gates first."""
    after: OrderMatrices


def gated_messages(
    x: Float[Tensor, "points components channels"],
    radial: Float[Tensor, "edges hidden"],
    last: tuple[Float[Tensor, "scales hidden"], Float[Tensor, " scales"]],
    maps: Sequence[Maps],
    graph: EdgeGraph,
) -> Float[Tensor, "receivers components channels"]:
    r""":math:`\sum_j u_{ij}\,D^T\,B\,\mathrm{gate}\bigl(A\,(w_{ij} ⊙ D\,[x_j, x_i])\bigr)`, w = W r + b of each
    channel, degree and order: the same as its operations one by one, of which the first derivative by x, r, D and u can
    be had, and no others.

    Edges are taken in pieces that stay in the cache, all the way. Of the way back what went into the gate and the
    messages are kept; features in the frames of edges and the scales, a tenth of the work, are found again. The
    products of an order ±m are three, not four (Gauss), of matrices that are put together once for all pieces.

    Args:
        radial, last: r; W and b.
        maps: A and B for each range of edges.
        graph: with a rotation of one block.
    """
    (rotation,) = graph.rotation.blocks
    plan = _Plan(graph, maps, last, x.shape[0], x.shape[2])
    return _Messages.apply(plan, x, radial, rotation, graph.envelope)  # pyright: ignore[reportReturnType]


class _Map:
    """An SO(2) map on features whose rows are side by side."""

    def __init__(self, matrices: OrderMatrices) -> None:
        self.first, self.bias = matrices.first.detach(), matrices.bias.detach()
        self.pairs = [Pair.of(other.detach().mT) for other in matrices.others]
        self.places = self._places()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """y of x."""
        (rows, columns), *others = self.places
        torch.addmm(self.bias, x[:, rows], self.first.mT, out=y[:, columns])
        for pair, (rows, columns) in zip(self.pairs, others, strict=True):
            add_pair(x[:, rows], pair, y[:, columns], transposed=False, add=False)

    def back(self, slope: Tensor, of_x: Tensor) -> None:
        """The gradient of x from that of y."""
        (rows, columns), *others = self.places
        torch.mm(slope[:, columns], self.first, out=of_x[:, rows])
        for pair, (rows, columns) in zip(self.pairs, others, strict=True):
            add_pair(slope[:, columns], pair, of_x[:, rows], transposed=True, add=False)

    def _places(self) -> list[tuple[slice, slice]]:
        """The columns of each order in x and in y."""
        found, row, column = [], 0, 0
        sizes = [self.first.shape, *((2 * pair.u.shape[1], 2 * pair.u.shape[0]) for pair in self.pairs)]
        for wide, tall in sizes:
            found.append((slice(row, row + tall), slice(column, column + wide)))
            row, column = row + tall, column + wide
        return found


class _Order(NamedTuple):
    """Rows of one order, those of +m before those of −m; for m = 0 the invariants are left out."""

    rows: slice
    signs: int
    degrees: slice


@dataclass(frozen=True)
class _Plan:
    """What is not differentiated."""

    graph: EdgeGraph
    maps: Sequence[Maps]
    last: tuple[Tensor, Tensor]
    points: int
    channels: int

    @cached_property
    def degrees(self) -> int:
        return round(self.graph.rotation.blocks[0].shape[2] ** 0.5)

    @cached_property
    def hidden(self) -> int:
        """Channels between the maps."""
        return self.maps[0].after.first.shape[1] // self.degrees

    @cached_property
    def orders(self) -> list[_Order]:
        """Of rows."""
        found, row = [], 0
        for order in range(self.graph.rotation.max_order + 1):
            signs, count = 1 + (order > 0), self.degrees - order
            found.append(_Order(slice(row, row + signs * count), signs, slice(order, self.degrees)))
            row += signs * count
        return found

    def pieces(self) -> Iterator[tuple[slice, _Map, _Map]]:
        """Ranges of edges with their maps."""
        most = max(PIECE // (self.degrees**2 * 2 * self.channels), LEAST_EDGES)
        for part in self.maps:
            before, after, edges = _Map(part.before), _Map(part.after), part.end - part.first
            size = max(-(-edges // max(-(-edges // most), 1)), 1)
            for start in range(part.first, part.end, size):
                yield slice(start, min(start + size, part.end)), before, after

    def ends(self, edges: slice) -> Tensor:
        """Which rows of the points' features those of both ends of each edge are, component by component."""
        components = torch.arange(self.degrees**2, device=self.graph.senders.device)
        ends = torch.stack((self.graph.senders[edges], self.graph.receiver_points[edges]), dim=1)
        return (ends[:, None] * components.shape[0] + components[:, None]).flatten()

    def turned(self, x: Tensor, rows: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both ends side by side, as they are and in the frame."""
        ends = x.flatten(0, 1).index_select(0, rows).view(rotation.shape[0], self.degrees**2, -1)
        return ends, torch.bmm(rotation, ends)

    def scales(self, radial: Tensor) -> Tensor:
        """w."""
        weight, bias = self.last
        return torch.addmm(bias.detach(), radial, weight.detach().mT)

    def with_scales(self, x: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Of each order (edges, signs, numbers) of x, those of w, which are the same for both signs, and their place
        in w."""
        first = 0
        for order in self.orders:
            place = slice(first, first + (order.degrees.stop - order.degrees.start) * 2 * self.channels)
            part = x[:, order.rows].flatten(1).unflatten(1, (order.signs, -1))
            yield part, scales[:, None, place], place
            first = place.stop

    def with_gates(self, x: Tensor, gates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each order the rows of x of degrees above 0, (edges, signs, degrees, channels), and their gates."""
        for order in self.orders:
            rows, degrees = order.rows, order.degrees
            if degrees.start == 0:
                rows, degrees = slice(rows.start + 1, rows.stop), slice(1, degrees.stop)
            if degrees.start < degrees.stop:
                part = x[:, rows].unflatten(1, (order.signs, -1))
                yield part, gates[:, None, degrees.start - 1 :]


class _Messages(torch.autograd.Function):
    """Of :func:`gated_messages`."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, radial: Tensor, rotation: Tensor, envelope: Tensor) -> Tensor:
        edges, rows, components = rotation.shape
        channels, hidden, gates = plan.channels, plan.hidden, (plan.degrees - 1) * plan.hidden
        keeps = any(ctx.needs_input_grad)
        kept = x.new_empty(edges if keeps else 0, gates + rows * hidden)
        messages = x.new_empty(edges if keeps else 0, rows * channels)
        sums = x.new_zeros(plan.graph.count * components, channels)
        places = torch.arange(components, device=x.device)
        for piece, before, after in plan.pieces():
            _, turned = plan.turned(x, plan.ends(piece), rotation[piece])
            scales = plan.scales(radial[piece])
            for part, factors, _ in plan.with_scales(turned, scales):
                part.mul_(factors)
            count = turned.shape[0]
            inner = kept[piece] if keeps else x.new_empty(count, kept.shape[1])
            before(turned.flatten(1), inner)
            gated = x.new_empty(count, rows, hidden)
            through = inner[:, gates:].unflatten(1, (rows, hidden))
            torch.ops.aten.silu.out(through[:, 0], out=gated[:, 0])
            opened = inner[:, :gates].sigmoid().unflatten(1, (-1, hidden))
            outputs = plan.with_gates(gated, opened)
            for (part, gate), (output, _) in zip(plan.with_gates(through, opened), outputs, strict=True):
                torch.mul(part, gate, out=output)
            message = messages[piece] if keeps else x.new_empty(count, messages.shape[1])
            after(gated.flatten(1), message)
            faded = rotation[piece] * envelope[piece, None, None]
            back = torch.bmm(faded.mT, message.unflatten(1, (rows, channels)))
            receivers = (plan.graph.receivers[piece, None] * components + places).flatten()
            sums.index_add_(0, receivers, back.flatten(0, 1))
        ctx.plan = plan
        ctx.save_for_backward(x, radial, rotation, envelope, kept, messages)
        return sums.view(-1, components, channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        plan: _Plan = ctx.plan
        x, radial, rotation, envelope, kept, messages = ctx.saved_tensors
        slope, (_, rows, components) = slopes[0], rotation.shape
        hidden, gates = plan.hidden, (plan.degrees - 1) * plan.hidden
        of_x, of_radial = x.new_zeros(plan.points * components, plan.channels), torch.empty_like(radial)
        of_rotation, of_envelope = torch.empty_like(rotation), torch.empty_like(envelope)
        for piece, before, after in plan.pieces():
            turn, inner, message = rotation[piece], kept[piece], messages[piece].unflatten(1, (rows, -1))
            count, fading = turn.shape[0], envelope[piece, None, None]
            coming = slope.index_select(0, plan.graph.receivers[piece])
            of_turn = torch.bmm(message, coming.mT)
            torch.sum(of_turn * turn, dim=(1, 2), out=of_envelope[piece])
            of_turn.mul_(fading)
            of_message = torch.bmm(turn * fading, coming)
            of_gated = x.new_empty(count, rows, hidden)
            after.back(of_message.flatten(1), of_gated.flatten(1))

            of_inner, through = torch.empty_like(inner), inner[:, gates:].unflatten(1, (rows, hidden))
            opened = inner[:, :gates].sigmoid()
            by_degree, of_through = opened.unflatten(1, (-1, hidden)), of_inner[:, gates:].unflatten(1, (rows, hidden))
            torch.ops.aten.silu_backward.grad_input(of_gated[:, 0], through[:, 0], grad_input=of_through[:, 0])
            outputs = plan.with_gates(of_through, by_degree)
            for (part, gate), (output, _) in zip(plan.with_gates(of_gated, by_degree), outputs, strict=True):
                torch.mul(part, gate, out=output)
            of_gates = torch.zeros_like(by_degree)
            inputs = plan.with_gates(through, of_gates)
            for (part, _), (other, total) in zip(plan.with_gates(of_gated, of_gates), inputs, strict=True):
                for sign in range(part.shape[1]):
                    total[:, 0].addcmul_(part[:, sign], other[:, sign])
            torch.ops.aten.sigmoid_backward.grad_input(of_gates.flatten(1), opened, grad_input=of_inner[:, :gates])

            places = plan.ends(piece)
            ends, turned = plan.turned(x, places, turn)
            of_turned = torch.empty_like(turned)
            before.back(of_inner, of_turned.flatten(1))
            scales = plan.scales(radial[piece])
            of_scales = torch.empty_like(scales)
            pairs = zip(plan.with_scales(of_turned, scales), plan.with_scales(turned, scales), strict=True)
            for (part, factors, place), (other, _, _) in pairs:
                torch.mul(part[:, 0], other[:, 0], out=of_scales[:, place])
                for sign in range(1, part.shape[1]):
                    of_scales[:, place].addcmul_(part[:, sign], other[:, sign])
                part.mul_(factors)
            torch.mm(of_scales, plan.last[0].detach(), out=of_radial[piece])
            torch.baddbmm(of_turn, of_turned, ends.mT, out=of_rotation[piece])
            of_ends = torch.bmm(turn.mT, of_turned)
            of_x.index_add_(0, places, of_ends.view(-1, plan.channels))
        return None, of_x.view_as(x), of_radial, of_rotation, of_envelope
