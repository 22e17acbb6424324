"""What is measured: constructor arguments and sizes, the same for every side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Case:
    """A training step of one model on random points at about the density of a protein."""

    what: str
    points: int
    model: dict[str, Any]
    wanted: float | None = None
    """How many times faster than the published package, where that is wanted."""
    batch: int = field(default=1)


SEED = {
    "num_tokens": 24,
    "dim": (4, 4, 2),
    "dim_head": (4, 4, 4),
    "heads": (2, 2, 2),
    "num_linear_attn_heads": 0,
    "num_degrees": 3,
    "depth": 4,
    "attend_self": True,
    "reduce_dim_out": True,
}
WIDE = {"num_tokens": 24, "dim": 64, "num_degrees": 3, "depth": 2, "num_neighbors": 16, "reduce_dim_out": True}
FEWER_HEADS = WIDE | {"heads": 4, "dim_head": 16}
DENOISE = {
    "num_tokens": 63,
    "dim": (16, 8, 8, 8),
    "dim_head": (8, 8, 8, 8),
    "heads": (4, 4, 4, 4),
    "num_degrees": 4,
    "depth": 2,
    "num_neighbors": 6,
    "reduce_dim_out": True,
}
UNEVEN = DENOISE | {"num_tokens": 24, "dim_head": (16, 8, 8, 8), "heads": (4, 2, 2, 2)}
FLOOR = {"num_tokens": 24, "dim": 128, "num_degrees": 4, "depth": 2, "num_neighbors": 32, "reduce_dim_out": True}
GROWTH = {"num_tokens": 24, "dim": 32, "num_degrees": 3, "depth": 2, "num_neighbors": 16, "reduce_dim_out": True}
REVERSIBLE = {
    "num_tokens": 24,
    "dim": (4, 4, 2),
    "dim_head": (4, 4, 4),
    "heads": (2, 2, 2),
    "num_degrees": 3,
    "reduce_dim_out": True,
}

COMPARED = {
    "seed, L2": Case("seed's first example, L2 attention", 128, SEED | {"l2_dist_attention": True}, 15),
    "seed, MLP": Case("seed's first example, MLP attention", 128, SEED | {"l2_dist_attention": False}, 15),
    "wide, L2": Case("dim 64, heads 8 × 24, 16 neighbours, L2", 128, WIDE | {"l2_dist_attention": True}, 12),
    "wide, MLP": Case("dim 64, heads 8 × 24, 16 neighbours, MLP", 128, WIDE | {"l2_dist_attention": False}, 12),
    "fewer heads, L2": Case(
        "dim 64, heads 4 × 16, 16 neighbours, L2", 128, FEWER_HEADS | {"l2_dist_attention": True}, 18
    ),
    "fewer heads, MLP": Case(
        "dim 64, heads 4 × 16, 16 neighbours, MLP", 128, FEWER_HEADS | {"l2_dist_attention": False}, 24
    ),
    "denoise": Case("denoise.py's size, 6 neighbours", 192, DENOISE, 6),
    "uneven": Case("dims (16, 8, 8, 8), 6 neighbours, L2", 192, UNEVEN, 6),
}
FLOOR_CASE = Case("dim 128, 4 degrees, 32 neighbours", 128, FLOOR)


def growth_in_points(points: int) -> Case:
    """A model with 16 neighbours on more and more points."""
    return Case(f"{points} points", points, GROWTH)


def growth_in_degrees(degrees: int) -> Case:
    """A model with more and more degrees; the first of its two blocks carries them all."""
    return Case(f"{degrees} degrees", 128, GROWTH | {"num_degrees": degrees})


def depth_case(depth: int, reversible: bool) -> Case:
    """A deeper and deeper model, reversible or not."""
    return Case(f"depth {depth}", 64, REVERSIBLE | {"depth": depth, "reversible": reversible})


def smoke(case: Case) -> Case:
    """The same in a size that takes no time."""
    return replace(case, points=min(case.points, 24), model=case.model | {"depth": 1})
