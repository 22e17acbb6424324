"""Plans of products of every kind, with arguments that fit, and what they mean, entry by entry."""

from __future__ import annotations

import torch
from torch import Tensor

from equiformer_pytorch.ops.so2 import Block, BlockPlan, Scale
from tests.ops.graphs import normal

PLANS = {
    "one block": BlockPlan((Block((0, 5), (0, 4)),), (5,), (4,), (Scale((0, 5), (0, 5)),)),
    "one block without scales": BlockPlan((Block((0, 5), (0, 4), bias=True),), (5,), (4,)),
    # Orders 0, 1, 2 of 3 + 2·2 + 2·1 columns, scales of their own, and invariants besides.
    "orders": BlockPlan(
        (
            Block((0, 3), (0, 4), bias=True),
            Block((3, 7), (4, 10), paired=True),
            Block((7, 9), (10, 12), paired=True),
            Block((0, 3), (0, 2), target=1, bias=True),
        ),
        (9,),
        (12, 2),
        (Scale((0, 3), (0, 3)), Scale((3, 7), (3, 5), paired=True), Scale((7, 9), (5, 6), paired=True)),
    ),
    # One scale for each degree: those of an order m > 0 are the last of all.
    "shared scales": BlockPlan(
        (Block((0, 3), (0, 3)), Block((3, 7), (3, 7), paired=True), Block((7, 9), (7, 9), paired=True)),
        (9,),
        (9,),
        (Scale((0, 3), (0, 3)), Scale((3, 7), (1, 3), paired=True), Scale((7, 9), (2, 3), paired=True)),
    ),
    "pairs without scales": BlockPlan((Block((0, 4), (0, 6), paired=True), Block((4, 5), (6, 8))), (5,), (8,)),
    # Blocks that give the same columns are added; so are those that take the same, in the gradient.
    "sums": BlockPlan(
        (
            Block((0, 2), (0, 3), bias=True),
            Block((2, 4), (3, 5), paired=True),
            Block((4, 6), (3, 5), paired=True),
            Block((6, 7), (0, 3)),
            Block((4, 6), (5, 7), paired=True),
            Block((0, 2), (5, 7)),
        ),
        (7,),
        (7,),
        (Scale((0, 7), (0, 7)),),
    ),
    "a bias of each": BlockPlan((Block((0, 2), (0, 3), bias=True), Block((2, 4), (0, 3), bias=True)), (4,), (3,)),
    # Their weights get gradients, of zero.
    "nothing comes out": BlockPlan(
        (Block((0, 3), (0, 0), bias=True), Block((3, 7), (0, 2), paired=True), Block((7, 9), (2, 2), paired=True)),
        (9,),
        (2,),
        (Scale((0, 3), (0, 3)), Scale((3, 7), (3, 5), paired=True), Scale((7, 9), (5, 6), paired=True)),
    ),
    "nothing goes in": BlockPlan(
        (Block((0, 0), (0, 2)), Block((0, 2), (2, 3)), Block((2, 2), (3, 5), paired=True)), (2,), (5,)
    ),
    "several sources": BlockPlan(
        (Block((0, 3), (0, 2)), Block((0, 4), (2, 4), source=1, paired=True), Block((0, 3), (0, 1), target=1)),
        (3, 4),
        (4, 1),
    ),
}
SINGLE = [name for name, plan in PLANS.items() if len(plan.sources) == 1]


def arguments(plan: BlockPlan, edges: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict:
    """Inputs, scales, matrices and biases that fit."""
    shapes = [(b.rows[1] - b.rows[0], b.columns[1] - b.columns[0]) for b in plan.blocks]
    matrices = [
        normal(rows // 2, columns, seed=seed + 10 + k, dtype=dtype)
        if block.paired
        else normal(rows, columns, seed=seed + 10 + k, dtype=dtype)
        for k, (block, (rows, columns)) in enumerate(zip(plan.blocks, shapes, strict=True))
    ]
    biases = [
        normal(columns, seed=seed + 40 + k, dtype=dtype)
        for k, (block, (_, columns)) in enumerate(zip(plan.blocks, shapes, strict=True))
        if block.bias
    ]
    width = max((scale.columns[1] for scale in plan.scales), default=0)
    return {
        "inputs": [normal(edges, size, seed=seed + k, dtype=dtype) for k, size in enumerate(plan.sources)],
        "scales": normal(edges, width, seed=seed + 5, dtype=dtype) if plan.scales else None,
        "matrices": matrices,
        "biases": biases,
    }


def written_out(
    inputs: list[Tensor], scales: Tensor | None, matrices: list[Tensor], biases: list[Tensor], plan: BlockPlan
) -> tuple[Tensor, ...]:
    """The definition, with complex numbers: x₊ + i x₋ times U + i V."""
    inputs, biases = list(inputs), list(biases)
    for scale in plan.scales:
        factor = scales[:, slice(*scale.columns)]
        factor = torch.cat((factor, factor), dim=1) if scale.paired else factor
        left, middle, right = inputs[0].tensor_split(scale.rows, dim=1)
        inputs[0] = torch.cat((left, middle * factor, right), dim=1)
    outputs = [inputs[0].new_zeros(len(inputs[0]), width) for width in plan.targets]
    for block, matrix in zip(plan.blocks, matrices, strict=True):
        x = inputs[block.source][:, slice(*block.rows)]
        if block.paired:
            y = torch.complex(*x.chunk(2, dim=1)) @ torch.complex(*matrix.chunk(2, dim=1))
            y = torch.cat((y.real, y.imag), dim=1)
        else:
            y = x @ matrix
        if block.bias:
            y = y + biases.pop(0)
        first, end = block.columns
        width = plan.targets[block.target]
        outputs[block.target] = outputs[block.target] + torch.nn.functional.pad(y, (first, width - end))
    return tuple(outputs)
