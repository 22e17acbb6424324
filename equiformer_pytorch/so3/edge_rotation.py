"""The rotations of all edges onto y, applied to features: into the frames of the edges, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.so3.wigner import half_turn_coefficients, half_turn_to_y, x_half_turn_signs

# Degrees below this share one block-diagonal matrix: a batched product of many tiny matrices costs more than the zeros.
SHARED = 4


def spans(degrees: int) -> list[tuple[int, int]]:
    """The degrees ``low … high − 1`` that each block holds."""
    return [(0, min(SHARED, degrees)), *((degree, degree + 1) for degree in range(SHARED, degrees))]


def order_major(low: int, high: int, limit: int, max_order: int) -> list[tuple[int, int]]:
    """(degree, signed order) of the rows of a block: |m| ascending, −m before +m, then by degree."""
    return [
        (degree, sign * order)
        for order in range(min(max_order + 1, high))
        for sign in ((-1, 1) if order else (1,))
        for degree in range(max(low, order), min(high, limit))
    ]


def block_constants(
    degrees: int,
) -> list[tuple[Float64[Tensor, "even_harmonics entries"], Float64[Tensor, " columns"]]]:
    """For each block the polynomial of :func:`half_turn_coefficients`, rows order-major, and its column signs."""
    constants = []
    for low, high in spans(degrees):
        columns = high**2 - low**2
        block = torch.zeros(high * (2 * high - 1), columns, columns, dtype=torch.float64)
        signs = torch.cat([x_half_turn_signs(degree) for degree in range(low, high)])
        polynomials = {degree: half_turn_coefficients(degree) for degree in range(low, high)}
        for row, (degree, order) in enumerate(order_major(low, high, high, high)):
            coefficients = polynomials[degree].unflatten(1, (2 * degree + 1, 2 * degree + 1))
            first = degree**2 - low**2
            block[: coefficients.shape[0], row, first : first + 2 * degree + 1] = coefficients[:, degree + order]
        constants.append((block.flatten(1), signs))
    return constants


@dataclass(frozen=True)
class EdgeRotation:
    r"""Wigner matrices D of rotations that carry each edge to y, in blocks of degrees.

    The columns of a block are degree-major, as features are; its rows are order-major, so that the components of one
    order, which an SO(2) map mixes, come out side by side. Edges without direction have zero matrices for degrees
    above 0.
    """

    degrees: int
    blocks: tuple[Float[Tensor, "edges rows columns"], ...]

    @classmethod
    def from_directions(
        cls,
        directions: Float[Tensor, "edges 3"],
        directed: Float[Tensor, " edges"],
        recurrence: Float[Tensor, "two degrees orders"],
        constants: list[tuple[Tensor, Tensor]],
    ) -> EdgeRotation:
        """From unit vectors, :func:`recurrence_constants` of degree 2L and :func:`block_constants`, all of one dtype;
        `directed` is zero for edges that have no direction."""
        axis, below = half_turn_to_y(directions)
        harmonics = spherical_harmonics(axis, recurrence, even_only=True)
        blocks = []
        for index, (coefficients, signs) in enumerate(constants):
            columns = signs.shape[0]
            block = (harmonics[:, : coefficients.shape[0]] @ coefficients).unflatten(1, (columns, columns))
            factor = torch.where(below[:, None], signs, torch.ones_like(signs)) * directed[:, None]
            if index == 0:
                factor = torch.cat((torch.ones_like(factor[:, :1]), factor[:, 1:]), dim=1)
            blocks.append(block * factor[:, None])
        return cls(recurrence.shape[1] // 2 + 1, tuple(blocks))

    def with_blocks(self, blocks: Iterable[Tensor]) -> EdgeRotation:
        """The same rotations in other tensors: another dtype, or cut out of their graph."""
        return EdgeRotation(self.degrees, tuple(blocks))

    def align(
        self, x: Float[Tensor, "edges components channels"], degrees: int, max_order: int
    ) -> list[Float[Tensor, "edges signs rows"]]:
        """Turn x, of so many degrees, into the edge frames. For each order m ≤ `max_order` the components −m, +m (just
        0 for m = 0) of the degrees l ≥ m, the channels of all these degrees side by side."""
        if degrees == 1:
            return [x]
        parts: list[list[Tensor]] = [[] for _ in range(max_order + 1)]
        ranges = spans(degrees)
        columns = x.split([high**2 - low**2 for low, high in ranges], dim=1) if len(ranges) > 1 else (x,)
        for block, (low, high) in enumerate(ranges):
            turned = torch.bmm(self._select(block, high, max_order), columns[block])
            orders = range(min(max_order + 1, high))
            sizes = [(high - max(low, m)) * len({-m, m}) for m in orders]
            for m, part in zip(orders, turned.split(sizes, dim=1), strict=True):
                parts[m].append(part.unflatten(1, (len({-m, m}), -1)))
        return [(part[0] if len(part) == 1 else torch.cat(part, dim=2)).flatten(2) for part in parts]

    def restore(
        self, orders: list[Float[Tensor, "edges signs degrees channels"]]
    ) -> Float[Tensor, "edges components channels"]:
        """The inverse of :meth:`align`, from the orders 0 … max_order of all degrees; higher orders count as zero."""
        degrees, max_order = orders[0].shape[2], len(orders) - 1
        if degrees == 1:
            return orders[0].squeeze(1)
        by_block: list[list[Tensor]] = [[] for _ in spans(degrees)]
        for m, part in enumerate(orders):
            held = [b for b, (_, high) in enumerate(spans(degrees)) if high > m]
            sizes = [spans(degrees)[b][1] - max(spans(degrees)[b][0], m) for b in held]
            for b, piece in zip(held, part.split(sizes, dim=2) if len(held) > 1 else (part,), strict=True):
                by_block[b].append(piece.flatten(1, 2))
        restored = []
        for block, (_, high) in enumerate(spans(degrees)):
            selected = self._select(block, high, max_order)
            restored.append(torch.bmm(selected.mT, torch.cat(by_block[block], dim=1)))
        return restored[0] if len(restored) == 1 else torch.cat(restored, dim=1)

    def _select(self, block: int, high: int, max_order: int) -> Float[Tensor, "edges rows columns"]:
        """Rows of orders up to `max_order` and degrees below `high`, of a block that may hold more degrees."""
        matrix, (low, held) = self.blocks[block], spans(self.degrees)[block]
        rows = order_major(low, held, held, max_order)
        if held > high:
            keep = [row for row, (degree, _) in enumerate(rows) if degree < high]
            return matrix[:, torch.tensor(keep, device=matrix.device), : high**2 - low**2]
        return matrix[:, : len(rows)]


def rotation_constants(degrees: int) -> tuple[Float64[Tensor, "two degrees orders"], list[tuple[Tensor, Tensor]]]:
    """What :meth:`EdgeRotation.from_directions` needs for degrees 0 … degrees − 1."""
    return recurrence_constants(2 * (degrees - 1)), block_constants(degrees)
