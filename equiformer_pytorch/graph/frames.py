"""The frames of edges: rotations that carry each edge to y, as Wigner matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.so3.harmonics import even_harmonics, quadratic_form, stretched_product
from equiformer_pytorch.so3.rows import order_major_rows
from equiformer_pytorch.so3.wigner import half_turn_charts, half_turn_coefficients, half_turn_to_y, x_half_turn_signs

# Degrees below this share one block-diagonal matrix: a batched product of many tiny matrices costs more than the zeros.
SHARED = 4
# How far the second row of a given frame may be from the direction of its edge; the published code rounds within this.
FRAME_TOLERANCE = 5e-3


def block_rows(low: int, high: int, max_order: int) -> list[tuple[int, int]]:
    """(degree, signed order) of the rows of a block: those of :func:`order_major_rows` that it holds."""
    return [row for row in order_major_rows(high - 1, min(max_order, high - 1)) if row[0] >= low]


def block_coefficients(low: int, high: int, max_order: int) -> Float64[Tensor, "even_harmonics entries"]:
    """The polynomial of :func:`half_turn_coefficients` for a block: (harmonics, rows · columns)."""
    rows, columns = block_rows(low, high, max_order), high**2 - low**2
    coefficients = torch.zeros(high * (2 * high - 1), len(rows), columns, dtype=torch.float64)
    for degree in range(low, high):
        polynomial = half_turn_coefficients(degree).unflatten(1, (2 * degree + 1, 2 * degree + 1))
        for row, (row_degree, order) in enumerate(rows):
            if row_degree == degree:
                place = slice(degree**2 - low**2, (degree + 1) ** 2 - low**2)
                coefficients[: polynomial.shape[0], row, place] = polynomial[:, degree + order]
    return coefficients.flatten(1)


def block_factors(low: int, high: int) -> Float64[Tensor, "three columns"]:
    """Factors of the columns for edges above the horizon, below it, and without a direction."""
    signs = torch.cat([x_half_turn_signs(degree) for degree in range(low, high)])
    undirected = torch.zeros_like(signs)
    undirected[:1] = float(low == 0)
    return torch.stack((torch.ones_like(signs), signs, undirected))


def opposite_rows(low: int, high: int, max_order: int) -> Float64[Tensor, " rows"]:
    """For each row that of the opposite order."""
    rows = block_rows(low, high, max_order)
    return torch.tensor([rows.index((degree, -order)) for degree, order in rows], dtype=torch.float64)


def row_orders(low: int, high: int, max_order: int) -> Float64[Tensor, " rows"]:
    """The signed order of each row."""
    return torch.tensor([order for _, order in block_rows(low, high, max_order)], dtype=torch.float64)


def rows_below(degrees: int, high: int, max_order: int) -> Float64[Tensor, " rows"]:
    """The rows of the first block that belong to lower degrees."""
    rows = block_rows(0, high, max_order)
    return torch.tensor([k for k, (degree, _) in enumerate(rows) if degree < degrees], dtype=torch.float64)


@dataclass(frozen=True)
class Rotation:
    r"""Wigner matrices D of rotations that carry each edge to y, in blocks of degrees.

    The columns of a block are degree-major, as features are; its rows are order-major, so that the components of one
    order, which an SO(2) map mixes, come out side by side. Edges without direction have zero matrices for degrees
    above 0.
    """

    spans: tuple[tuple[int, int], ...]
    """The degrees ``low … high − 1`` that each block holds."""
    max_order: int
    """Rows are those of orders up to this, of either sign."""
    blocks: tuple[Float[Tensor, "edges _rows _columns"], ...]
    """The matrices, one per edge and block."""
    rows_below: Mapping[int, Int[Tensor, " _rows"]] = field(default_factory=dict, repr=False)
    """Which rows of the first block belong to degrees below a number that falls inside it."""

    def with_blocks(self, blocks: Iterable[Tensor]) -> Rotation:
        """The same rotations in other tensors: another dtype, some of the edges, or cut out of their graph."""
        return replace(self, blocks=tuple(blocks))

    def restricted(self, degrees: int, max_order: int) -> list[Float[Tensor, "edges _rows _columns"]]:
        """The blocks without the rows of higher degrees and orders, and without the columns of higher degrees."""
        found = []
        for block, (low, high) in zip(self.blocks, self.spans, strict=True):
            if low >= degrees:
                break
            if high > degrees:
                block = block.index_select(1, self.rows_below[degrees])[:, :, : degrees**2 - low**2]
                high = degrees
            found.append(block[:, : len(block_rows(low, high, max_order))])
        return found


def edge_lengths(vectors: Float[Tensor, "edges 3"]) -> tuple[Tensor, Tensor, Bool[Tensor, "edges 1"]]:
    """Distances (edges,), directions (edges, 3), and which edges have none.

    An edge of zero length, or one so short that its square underflows, has none: its distance is zero with zero
    gradient, and so is its direction.
    """
    square = (vectors * vectors).sum(-1, keepdim=True)
    undirected = ~(square > torch.finfo(vectors.dtype).tiny)
    length = square.masked_fill(undirected, 1).sqrt()
    return length.masked_fill(undirected, 0).squeeze(-1), vectors / length, undirected


class EdgeFrames(ExactConstants):
    r"""D of the rotation that carries each edge to y, rows with `|m|` ≤ `max_order`, and the length of each edge.

    By default half-turns (:mod:`equiformer_pytorch.so3.wigner`): exact, without poles and never detached. A given
    frame R differs from them by a roll γ about the edge, D(R) = D_y(γ) D(half-turn): so R is met to rounding, and a
    constant R still lets gradients through to the edge, at constant roll. A frame that carries gradients keeps them.

    D_l magnifies the rounding of a direction by about 2l: above degree 4 directions are worked on in float64. The
    constants, places of rows among them, stay in float64 whatever the module is cast to. Degrees below `shared` are in
    one block, each other in one of its own. (The published codes find D from Euler angles, with zero gradient at their
    poles or, in EquiformerV2, everywhere.)

    Args:
        max_degree: highest degree that is turned.
        max_order: highest order among the rows; by default that degree, so that all of a feature is there.
        shared: how many of the lowest degrees share a block.
    """

    widen_above = 4

    def __init__(self, max_degree: int, max_order: int | None = None, *, shared: int = SHARED) -> None:
        super().__init__()
        self.max_degree = max_degree
        self.max_order = max_degree if max_order is None else max_order
        first = min(shared, max_degree + 1)
        self.spans = ((0, first), *((degree, degree + 1) for degree in range(first, max_degree + 1)))
        self.constant("charts", half_turn_charts)
        self.constant("quadratic", quadratic_form)
        self.products = range(4, 2 * max_degree + 1, 2)
        for degree in self.products:
            self.constant(f"product_{degree}", stretched_product, degree)
        for index, (low, high) in enumerate(self.spans):
            self.constant(f"coefficients_{index}", block_coefficients, low, high, self.max_order)
            self.constant(f"factors_{index}", block_factors, low, high)
            if self.max_order > 0:
                self.constant(f"swap_{index}", opposite_rows, low, high, self.max_order)
                self.constant(f"order_{index}", row_orders, low, high, self.max_order)
        self.inside = range(1, self.spans[0][1])
        for degrees in self.inside:
            self.constant(f"below_{degrees}", rows_below, degrees, self.spans[0][1], self.max_order)

    def forward(
        self,
        vectors: Float[Tensor, "edges 3"],
        frames: Float[Tensor, "edges 3 3"] | None = None,
        *,
        turned: Float[Tensor, "edges 3"] | None = None,
    ) -> tuple[Float[Tensor, " edges"], Rotation]:
        """Distances and rotations, in the dtype of `vectors`.

        Args:
            vectors: from the receiver to the sender of each edge.
            frames: rotations to use instead of the half-turns; see :func:`check_frames`.
            turned: the vectors whose rotations are wanted, where they are cut out of the graph of `vectors`.
        """
        dtype = vectors.dtype
        distance, direction, undirected = edge_lengths(vectors)
        if turned is not None or (self.max_degree > self.widen_above and dtype != torch.float64):
            turned = vectors if turned is None else turned
            turned = turned.double() if self.max_degree > self.widen_above else turned
            # An edge whose distance is zero has no direction, whatever can be said of it in wider numbers.
            direction = edge_lengths(turned)[1]
        if frames is not None:
            frames = frames.to(direction.dtype)
            # The value of the frame, the derivative of the edge.
            row = frames[:, 1]
            direction = row if frames.requires_grad else row + (direction - direction.detach())
        axis, below = half_turn_to_y(direction, self.cast("charts", direction.dtype))
        blocks = self._half_turns(axis, below, undirected.squeeze(-1))
        if frames is not None and self.max_order > 0:
            blocks = self._roll(blocks, frames, axis if frames.requires_grad else axis.detach(), below)
        rows_below = {degrees: self.cast(f"below_{degrees}", torch.long) for degrees in self.inside}
        return distance, Rotation(self.spans, self.max_order, tuple(block.to(dtype) for block in blocks), rows_below)

    def _half_turns(
        self, axis: Float[Tensor, "edges 3"], below: Int[Tensor, " edges"], undirected: Bool[Tensor, " edges"]
    ) -> list[Float[Tensor, "edges _rows _columns"]]:
        """Polynomials of the axes; edges below the horizon are turned by π about x first."""
        dtype = axis.dtype
        products = [self.cast(f"product_{degree}", dtype) for degree in self.products]
        harmonics = even_harmonics(axis, self.cast("quadratic", dtype), products)
        case = below.masked_fill(undirected, 2)
        blocks = []
        for index in range(len(self.spans)):
            coefficients = self.cast(f"coefficients_{index}", dtype)
            factor = self.cast(f"factors_{index}", dtype).index_select(0, case)
            constant, coefficients = coefficients[0], coefficients[1:]
            block = torch.addmm(constant, harmonics[:, : coefficients.shape[0]], coefficients)
            blocks.append(block.unflatten(1, (-1, factor.shape[1])) * factor[:, None])
        return blocks

    def _roll(
        self,
        blocks: list[Float[Tensor, "edges _rows _columns"]],
        frames: Float[Tensor, "edges 3 3"],
        axis: Float[Tensor, "edges 3"],
        below: Int[Tensor, " edges"],
    ) -> list[Float[Tensor, "edges _rows _columns"]]:
        """D_y(γ) times the blocks, γ from the frame and the half-turn; it mixes +m and −m like a plane."""
        turn = 2 * axis[:, :, None] * axis[:, None] - torch.eye(3, dtype=axis.dtype, device=axis.device)
        turn = turn * self.cast("charts", axis.dtype).index_select(0, below)[:, None]
        cosine = (frames[:, 0] * turn[:, 0]).sum(-1)
        sine = (frames[:, 0] * turn[:, 2]).sum(-1)
        powers = [(torch.ones_like(cosine), torch.zeros_like(sine))]
        for _ in range(self.max_order):
            real, imaginary = powers[-1]
            powers.append((real * cosine - imaginary * sine, real * sine + imaginary * cosine))
        real, imaginary = (torch.stack(parts, dim=1) for parts in zip(*powers, strict=True))
        rolled = []
        for index, block in enumerate(blocks):
            order, swap = (self.cast(f"{name}_{index}", torch.long) for name in ("order", "swap"))
            of_rows, across = real[:, order.abs()], imaginary[:, order.abs()] * -order.sign()
            rolled.append(block * of_rows[:, :, None] + block[:, swap] * across[:, :, None])
        return rolled


def check_frames(frames: Float[Tensor, "edges 3 3"], vectors: Float[Tensor, "edges 3"]) -> None:
    """ValueError unless each frame is a rotation that carries its edge to y."""
    frames, vectors = frames.detach(), vectors.detach().to(frames.dtype)
    carried = (frames @ vectors[:, :, None]).squeeze(-1)
    length = vectors.norm(dim=1)
    off = (carried - torch.stack((torch.zeros_like(length), length, torch.zeros_like(length)), dim=1)).abs().amax(1)
    product = frames @ frames.mT - torch.eye(3, dtype=frames.dtype, device=frames.device)
    improper = (product.abs().amax((1, 2)) > FRAME_TOLERANCE) | (torch.linalg.det(frames) < 0)
    bad = (off > FRAME_TOLERANCE * length) | improper
    if bool(bad.any()):
        where = int(bad.nonzero()[0])
        raise ValueError(
            "edge_frames must be rotations that carry each edge vector (pos[sender] + offset·cell − pos[receiver]) to"
            f" the y axis; that of edge {where} does not: {frames[where].tolist()}"
        )
