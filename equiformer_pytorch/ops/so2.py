"""Products with matrices that commute with rotations about the edge: one block for each order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import operation, traced


class Block(NamedTuple):
    """Columns `rows` of one input, times a matrix, are added to `columns` of one output. Ranges are (first, end)."""

    source: int
    rows: tuple[int, int]
    target: int
    columns: tuple[int, int]


class BlockPlan(NamedTuple):
    """Which block of which input goes where, and how wide the outputs are."""

    blocks: tuple[Block, ...]
    sources: tuple[int, ...]
    targets: tuple[int, ...]

    def transposed(self) -> BlockPlan:
        """The plan of the transposed matrices."""
        blocks = tuple(Block(b.target, b.columns, b.source, b.rows) for b in self.blocks)
        return BlockPlan(blocks, self.targets, self.sources)


@operation
def so2_product(
    x: Float[Tensor, "edges rows_channels"],
    scales: Float[Tensor, "edges rows_channels"] | None,
    matrices: Sequence[Float[Tensor, "rows columns"]],
    plan: BlockPlan,
) -> tuple[Float[Tensor, "edges columns"], ...]:
    """(w ⊙ x) times a matrix with few blocks, each a product of its own; derivatives of any order.

    Args:
        x: rows order-major, their channels side by side.
        scales: w, of every channel of every row.
        matrices: of the blocks, in the order of the plan; for m > 0 real, of the components (+m, −m) side by side.
    """
    return block_product((x if scales is None else x * scales,), matrices, plan)


def block_product(
    inputs: Sequence[Float[Tensor, "edges rows"]], matrices: Sequence[Float[Tensor, "rows columns"]], plan: BlockPlan
) -> tuple[Float[Tensor, "edges columns"], ...]:
    """The outputs of a plan. Every column of an output belongs to at least one block."""
    if traced() or torch.is_autocast_enabled(inputs[0].device.type):
        return _written_out(inputs, matrices, plan)
    return _BlockProduct.apply(plan, *inputs, *matrices)  # pyright: ignore[reportReturnType]


def _written_out(inputs: Sequence[Tensor], matrices: Sequence[Tensor], plan: BlockPlan) -> tuple[Tensor, ...]:
    parts: dict[tuple[int, tuple[int, int]], Tensor] = {}
    for block, matrix in zip(plan.blocks, matrices, strict=True):
        part = inputs[block.source][:, slice(*block.rows)] @ matrix
        key = block.target, block.columns
        parts[key] = parts[key] + part if key in parts else part
    outputs = [[parts[key] for key in sorted(parts) if key[0] == target] for target in range(len(plan.targets))]
    return tuple(torch.cat(of_target, dim=1) if len(of_target) > 1 else of_target[0] for of_target in outputs)


def _in_place(inputs: Sequence[Tensor], matrices: Sequence[Tensor], plan: BlockPlan) -> list[Tensor]:
    """Each block written where it belongs: no parts to be put together."""
    outputs = [inputs[0].new_empty(inputs[0].shape[0], width) for width in plan.targets]
    written: set[tuple[int, tuple[int, int]]] = set()
    for block, matrix in zip(plan.blocks, matrices, strict=True):
        part, place = inputs[block.source][:, slice(*block.rows)], outputs[block.target][:, slice(*block.columns)]
        key = block.target, block.columns
        if key in written:
            place.addmm_(part, matrix)
        else:
            torch.mm(part, matrix, out=place)
        written.add(key)
    return outputs


class _BlockProduct(torch.autograd.Function):
    """Of inputs and matrices, in both linear: the gradient of the inputs is the product with the transposed blocks."""

    @staticmethod
    def forward(ctx: Any, plan: BlockPlan, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(plan.sources)
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return tuple(_in_place(tensors[:count], tensors[count:], plan))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        plan, count = ctx.plan, len(ctx.plan.sources)
        inputs, matrices = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        of_inputs: Sequence[Tensor | None] = [None] * count
        of_matrices: Sequence[Tensor | None] = [None] * len(matrices)
        if any(ctx.needs_input_grad[1 : 1 + count]):
            of_inputs = block_product(slopes, [matrix.mT for matrix in matrices], plan.transposed())
        if any(ctx.needs_input_grad[1 + count :]):
            of_matrices = _block_slopes(inputs, slopes, plan)
        return None, *of_inputs, *of_matrices


def _block_slopes(inputs: Sequence[Tensor], slopes: Sequence[Tensor], plan: BlockPlan) -> list[Tensor]:
    """The gradients of the matrices; plain operations, for the next derivative."""
    return [
        inputs[block.source][:, slice(*block.rows)].mT @ slopes[block.target][:, slice(*block.columns)]
        for block in plan.blocks
    ]
