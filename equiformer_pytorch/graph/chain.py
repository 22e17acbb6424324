"""Edges of chains: along the sequence, to the nearest, and to a few at random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.graph.nearest import find_neighbours
from equiformer_pytorch.graph.table import Table, group_bounds


@torch.no_grad()
def chain_edges(
    coors: Float[Tensor, "points 3"],
    batch: Integer[Tensor, " points"] | None = None,
    *,
    steps: Sequence[int] = (1, 2, 3, 4, 8, 16, 32),
    nearest: int = 16,
    random: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "2 edges"], Int[Tensor, " edges"]]:
    r"""Edges for a flat call of :class:`Equiformer` on chains: point i receives from i ± s for each of the `steps`,
    from its `nearest` points, and from `random` others of its structure, whose chance falls with the distance,

    .. math:: p(j \mid i) \propto d_{ij}^{-3}

    (Ingraham et al. 2023, "Illuminating protein space with a programmable generative model", random graph networks),
    so that what is far is seen with few edges. No edge comes twice.

    Args:
        coors: positions, in the order of the chain; chains one after the other.
        batch: the chain of each point, ascending; without it all are of one.
        steps: along the sequence, to both sides.
        nearest: so many nearest points.
        random: so many draws of others; some may be among those above, and are not edges twice.
        generator: of the draws, on the device of `coors`.

    Returns:
        `edge_index` (sender, receiver), sorted by receiver and then sender; and of each edge how many places further
        in the sequence the sender is.

    Raises:
        ValueError, TypeError: for what does not fit, by name.
    """
    coors = checks.check_tensor("coors", coors)
    checks.check_shape("coors", coors, (None, 3), "(points, 3)")
    checks.check_floating("coors", coors)
    for name, value in (("nearest", nearest), ("random", random)):
        checks.check_number(name, value, 0)
    for step in steps:
        checks.check_number("steps", step, 1)
    points = coors.shape[0]
    batch = torch.zeros(points, dtype=torch.long, device=coors.device) if batch is None else batch
    chain, chains = checks.check_batch(batch, points, None)
    checks.check_finite("coors", coors, "point")
    if points and checks.looks_at_values():
        checks.require((chain.diff() >= 0).all(), lambda: ValueError("batch must ascend: chains one after the other"))
    chain = chain.to(coors.device)
    place = torch.arange(points, device=coors.device)
    bounds = group_bounds(chain, chains)
    first, last = bounds[:-1].index_select(0, chain), bounds[1:].index_select(0, chain)

    others = [place + offset for step in steps for offset in (-step, step)]
    table = Table.from_groups(chain, chains)
    if points and random:
        drawn = torch.multinomial(_chances(coors, table), random, replacement=True, generator=generator)
        others += [first + column for column in drawn.unbind(1)]
    keys = [(place * points + other)[(other >= first) & (other < last) & (other != place)] for other in others]
    if points and nearest:
        senders, receivers, _ = find_neighbours(coors, table, num_neighbors=nearest, valid_radius=math.inf)
        keys.append(receivers * points + senders)
    found = torch.cat([*keys, place[:0]]).unique()
    receivers, senders = found // max(points, 1), found % max(points, 1)
    return torch.stack((senders, receivers)), senders - receivers


def _chances(coors: Float[Tensor, "points 3"], table: Table) -> Float[Tensor, "points columns"]:
    """Inverse cubes of the distances to the points of the same chain, in their order; alone, a point draws itself."""
    padded = table.spread(coors)
    chances = torch.cdist(padded, padded).clamp(min=1e-3).pow(-3)
    if table.mask is not None:
        chances = chances * table.mask[:, None]
    chances.diagonal(0, 1, 2).fill_(1e-30)
    return table.gather(chances)
