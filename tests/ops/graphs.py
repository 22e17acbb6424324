"""Graphs of edges that tests make up: as ragged as they want, with any rotations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph, Slots
from equiformer_pytorch.graph.frames import Rotation
from equiformer_pytorch.graph.table import Table
from tests.oracle import order_major, wigner_d

# How many edges each receiver has.
SIZES = {
    "ragged": [3, 0, 1, 2, 0],
    "equal": [2, 2, 2],
    "one edge": [0, 1],
    "no edges": [0, 0, 0],
    "no points": [],
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers that depend on nothing else."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_wigner(edges: int, max_degree: int, seed: int = 1) -> list[Tensor]:
    """D_0 … D_L of e3nn of random rotations."""
    angles = 3 * torch.rand(3, edges, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [wigner_d(degree, *angles) for degree in range(max_degree + 1)]


def rotation_of(matrices: Sequence[Tensor], max_order: int, shared: int = 4) -> Rotation:
    """These Wigner matrices in blocks, the degrees below `shared` in one."""
    degrees = len(matrices)
    first = min(shared, degrees)
    spans = ((0, first), *((degree, degree + 1) for degree in range(first, degrees)))
    blocks = []
    for low, high in spans:
        rows = [row for row in order_major(high - 1, min(max_order, high - 1)) if row[0] >= low]
        block = matrices[0].new_zeros(len(matrices[0]), len(rows), high**2 - low**2)
        for k, (degree, order) in enumerate(rows):
            block[:, k, degree**2 - low**2 : (degree + 1) ** 2 - low**2] = matrices[degree][:, degree + order]
        blocks.append(block)
    held = order_major(first - 1, min(max_order, first - 1))
    below = {
        degrees: torch.tensor([k for k, (degree, _) in enumerate(held) if degree < degrees])
        for degrees in range(1, first)
    }
    return Rotation(spans, max_order, tuple(blocks), below)


def edge_graph(
    sizes: Sequence[int],
    max_degree: int = 2,
    max_order: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    shared: int = 4,
    width: int = 3,
    envelope: bool = True,
    table: bool = False,
    attend_self: bool = True,
    seed: int = 0,
) -> EdgeGraph:
    """Receivers with so many edges each, random senders, rotations, scalars and envelope."""
    g = torch.Generator().manual_seed(seed)
    points, edges = len(sizes), sum(sizes)
    receivers = torch.repeat_interleave(torch.arange(points), torch.tensor(sizes, dtype=torch.long))
    senders = torch.randint(0, max(points, 1), (edges,), generator=g)
    rotation = rotation_of(random_wigner(edges, max_degree), max_degree if max_order is None else max_order, shared)
    u = torch.rand(edges, generator=g, dtype=torch.float64).to(dtype)
    u[1:2] = 0  # an edge beyond the cutoff
    rows = Table.from_groups(receivers, points) if table else None
    return EdgeGraph(
        senders=senders,
        receivers=receivers,
        receiver_points=receivers,
        count=points,
        rotation=rotation.with_blocks(block.to(dtype) for block in rotation.blocks),
        scalars=torch.randn(edges, width, generator=g, dtype=torch.float64).to(dtype),
        envelope=u if envelope else None,
        table=rows,
        slots=None if rows is None else Slots.of(rows, u, attend_self),
        structures=Table(1, points),
        kinds=torch.randint(1, 5, (points,), generator=g),
    )
