"""Products with matrices that commute with rotations about the edge: one block for each order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import operation, traced, written_out
from equiformer_pytorch.ops.needed import needed

Range = tuple[int, int]
"""(first, end) of columns."""


class Block(NamedTuple):
    """Columns `rows` of an input times a matrix give, or are added to, `columns` of an output."""

    rows: Range
    columns: Range
    source: int = 0
    target: int = 0
    paired: bool = False
    """The columns are (+m, −m) side by side, and the matrix is (U, V) side by side of the complex one U + iV."""
    bias: bool = False
    """Not of a pair."""
    transposed: bool = False
    """The matrix is to be transposed, a complex one conjugated, too: rows and columns are those of the result."""


class Scale(NamedTuple):
    """Columns `rows` of the input are multiplied by `columns` of the scales; (+m, −m) side by side by the same ones."""

    rows: Range
    columns: Range
    paired: bool = False


class BlockPlan(NamedTuple):
    """How wide inputs and outputs are, and what is done with their columns. Every column of an input and of an output
    belongs to a block; two blocks have the same columns, or none in common. Those that give the same are added."""

    blocks: tuple[Block, ...]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    scales: tuple[Scale, ...] = ()

    def transposed(self) -> BlockPlan:
        """Of the same matrices, transposed, without scales and biases."""
        blocks = [Block(b.columns, b.rows, b.target, b.source, b.paired, False, not b.transposed) for b in self.blocks]
        return BlockPlan(tuple(blocks), self.targets, self.sources)


@operation
def so2_product(
    x: Float[Tensor, "edges rows_channels"],
    scales: Float[Tensor, "edges scales"] | None,
    matrices: Sequence[Float[Tensor, "_rows _columns"]],
    biases: Sequence[Float[Tensor, " _columns"]],
    plan: BlockPlan,
) -> tuple[Float[Tensor, "edges _columns"], ...]:
    r"""(w ⊙ x) times a matrix of few blocks, each a product of its own, and biases; derivatives of any order.

    For an order m > 0, :math:`y_{+m} = x_{+m} U - x_{-m} V`, :math:`y_{-m} = x_{+m} V + x_{-m} U`: as one real matrix,
    or as a pair, for which three real products do instead of four (Gauss). Only x, w and the matrices are kept.

    Args:
        x: rows order-major, their channels side by side.
        scales: w, in the columns that the plan says; None where the plan has no scales.
        matrices: of the blocks, in the order of the plan.
        biases: of those blocks that have one.
    """
    return _product((x,), scales, matrices, biases, plan)


def _product(
    inputs: Sequence[Tensor],
    scales: Tensor | None,
    matrices: Sequence[Tensor],
    biases: Sequence[Tensor],
    plan: BlockPlan,
) -> tuple[Tensor, ...]:
    if written_out(*inputs):
        scaled = inputs if scales is None else (_scaled(inputs[0], scales, plan),)
        return _written_out(scaled, matrices, biases, plan)
    return _BlockProduct.apply(plan, scales, *inputs, *matrices, *biases)  # pyright: ignore[reportReturnType]


def _scaled(x: Tensor, scales: Tensor, plan: BlockPlan) -> Tensor:
    """w ⊙ x."""
    if len(plan.scales) == 1 and not plan.scales[0].paired:
        return x * scales
    if not (torch.is_grad_enabled() or traced(x)):
        scaled = torch.empty_like(x)
        for scale in plan.scales:
            part, by = _pairs(x, scale), scales[:, None, slice(*scale.columns)]
            torch.mul(part, by, out=_pairs(scaled, scale))
        return scaled
    parts = [_pairs(x, scale) * scales[:, None, slice(*scale.columns)] for scale in plan.scales]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _pairs(x: Tensor, scale: Scale) -> Tensor:
    """The columns that a scale belongs to, (edges, signs, columns)."""
    return x[:, slice(*scale.rows)].unflatten(1, (1 + scale.paired, -1))


def _scale_slopes(x: Tensor, slope: Tensor, scales: Tensor, plan: BlockPlan) -> Tensor:
    """The gradient of w from that of w ⊙ x."""
    if len(plan.scales) == 1 and not plan.scales[0].paired:
        return slope * x
    total = torch.zeros_like(scales)
    for scale in plan.scales:
        for one, other in zip(_pairs(slope, scale).unbind(1), _pairs(x, scale).unbind(1), strict=True):
            total[:, slice(*scale.columns)].addcmul_(one, other)
    return total


def _written_out(
    inputs: Sequence[Tensor], matrices: Sequence[Tensor], biases: Sequence[Tensor], plan: BlockPlan
) -> tuple[Tensor, ...]:
    """In plain operations."""
    parts: dict[tuple[int, Range], Tensor] = {}
    bias = iter(biases)
    for block, matrix in zip(plan.blocks, matrices, strict=True):
        part = inputs[block.source][:, slice(*block.rows)]
        if block.paired:
            (plus, minus), (u, v) = _halves(part), _halves(matrix)
            if block.transposed:
                u, v = u.mT, -v.mT
            part = torch.cat((plus @ u - minus @ v, minus @ u + plus @ v), dim=1)
        else:
            part = part @ (matrix.mT if block.transposed else matrix)
            part = part + next(bias) if block.bias else part
        key = block.target, block.columns
        parts[key] = parts[key] + part if key in parts else part
    outputs = [[parts[key] for key in sorted(parts) if key[0] == target] for target in range(len(plan.targets))]
    return tuple(torch.cat(of_target, dim=1) if len(of_target) > 1 else of_target[0] for of_target in outputs)


def _in_place(
    inputs: Sequence[Tensor], matrices: Sequence[Tensor], biases: Sequence[Tensor], plan: BlockPlan
) -> list[Tensor]:
    """Each block written where it belongs: no parts to be put together."""
    outputs = [inputs[0].new_empty(inputs[0].shape[0], width) for width in plan.targets]
    written: set[tuple[int, Range]] = set()
    bias = iter(biases)
    for block, matrix in zip(plan.blocks, matrices, strict=True):
        part, place = inputs[block.source][:, slice(*block.rows)], outputs[block.target][:, slice(*block.columns)]
        add, key = (block.target, block.columns) in written, (block.target, block.columns)
        if block.paired:
            add_pair(part, Pair.of(matrix), place, transposed=block.transposed, add=add)
            written.add(key)
            continue
        matrix = matrix.mT if block.transposed else matrix
        if add:
            place.addmm_(part, matrix)
            if block.bias:
                place.add_(next(bias))
        elif block.bias:
            torch.addmm(next(bias), part, matrix, out=place)
        else:
            torch.mm(part, matrix, out=place)
        written.add(key)
    return outputs


class Pair(NamedTuple):
    """A complex matrix U + iV as what :func:`add_pair` multiplies with."""

    u: Float[Tensor, "_rows _columns"]
    total: Float[Tensor, "_rows _columns"]
    """U + V."""
    difference: Float[Tensor, "_rows _columns"]
    """V − U."""

    @classmethod
    def of(cls, matrix: Float[Tensor, "_rows _two_columns"]) -> Pair:
        """From (U, V) side by side."""
        u, v = _halves(matrix)
        return cls(u, u + v, v - u)


def add_pair(part: Tensor, pair: Pair, place: Tensor, *, transposed: bool, add: bool) -> None:
    """The product of columns (+m, −m) written to, or added to, `place`; three products instead of four: the first
    serves both halves."""
    plus, minus = _halves(part)
    if transposed:
        u, terms = pair.u.mT, ((minus, pair.difference.mT, 1), (plus, pair.total.mT, -1))
    else:
        u, terms = pair.u, ((minus, pair.total, -1), (plus, pair.difference, 1))
    shared = (plus + minus) @ u
    for (half, other, sign), target in zip(terms, _halves(place), strict=True):
        if add:
            target.add_(shared).addmm_(half, other, alpha=sign)
        else:
            torch.addmm(shared, half, other, alpha=sign, out=target)


class _BlockProduct(torch.autograd.Function):
    """Linear in inputs and matrices: the gradient of the inputs is the product with the transposed blocks."""

    @staticmethod
    def forward(ctx: Any, plan: BlockPlan, scales: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.plan = plan
        inputs, matrices, biases = _taken_apart(tensors, plan)
        # Of frozen matrices the inputs are not needed, unless scales are.
        end = len(inputs) + len(matrices)
        ctx.keeps_inputs = scales is not None or any(ctx.needs_input_grad[2 + len(inputs) : 2 + end])
        kept = tensors if ctx.keeps_inputs else tensors[len(inputs) :]
        ctx.save_for_backward(scales, *kept)
        if scales is not None:
            inputs = (_scaled(inputs[0], scales, plan),)
        return tuple(_in_place(inputs, matrices, biases, plan))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        plan, (scales, *tensors) = ctx.plan, ctx.saved_tensors
        if not ctx.keeps_inputs:
            tensors = [slopes[0]] * len(plan.sources) + tensors  # in the places of the inputs, which nobody looks at
        inputs, matrices, biases = _taken_apart(tensors, plan)
        _, wants_scales, *wants = needed(ctx, (False, scales is not None, *(True for _ in tensors)))
        of_scales: Tensor | None = None
        of_inputs: Sequence[Tensor | None] = [None] * len(inputs)
        of_matrices: Sequence[Tensor | None] = [None] * len(matrices)
        if wants_scales or any(wants[: len(inputs)]):
            of_inputs = _product(slopes, None, matrices, (), plan.transposed())
            if scales is not None:
                of_scaled = of_inputs[0]
                of_inputs = [_scaled(of_scaled, scales, plan)] if wants[0] else [None]
                of_scales = _scale_slopes(inputs[0], of_scaled, scales, plan) if wants_scales else None
        if any(wants[len(inputs) : len(inputs) + len(matrices)]):
            scaled = inputs if scales is None else (_scaled(inputs[0], scales, plan),)
            of_matrices = [_matrix_slope(scaled, slopes, block) for block in plan.blocks]
        of_biases: Sequence[Tensor | None] = [None] * len(biases)
        if any(wants[len(inputs) + len(matrices) :]):
            of_biases = [slopes[b.target][:, slice(*b.columns)].sum(0) for b in plan.blocks if b.bias]
        return None, of_scales, *of_inputs, *of_matrices, *of_biases


def _taken_apart(
    tensors: Sequence[Tensor], plan: BlockPlan
) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Inputs, matrices, biases."""
    first, end = len(plan.sources), len(plan.sources) + len(plan.blocks)
    return tensors[:first], tensors[first:end], tensors[end:]


def _matrix_slope(inputs: Sequence[Tensor], slopes: Sequence[Tensor], block: Block) -> Tensor:
    """The gradient of a matrix; plain operations, for the next derivative."""
    x, slope = inputs[block.source][:, slice(*block.rows)], slopes[block.target][:, slice(*block.columns)]
    if block.transposed:
        x, slope = slope, x
    if not block.paired:
        return x.mT @ slope
    (plus, minus), (of_plus, of_minus) = _halves(x), _halves(slope)
    one, other = minus.mT @ of_plus, plus.mT @ of_minus
    both = (plus + minus).mT @ (of_plus + of_minus)
    return torch.cat((both - (one + other), other - one), dim=1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the columns; both may be empty."""
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]
