"""Checks of arguments that the published models share."""

from __future__ import annotations

from collections.abc import Sequence

from equiformer_pytorch.base.arguments import check_count
from equiformer_pytorch.base.checks import check_type


def check_orders(lmax: int, mmax: int, names: tuple[str, str]) -> None:
    """ValueError unless orders are at most the highest degree."""
    if mmax > lmax:
        raise ValueError(f"{names[1]} must be at most {names[0]} = {lmax}, got {mmax}")


def single(name: str, values: Sequence[int]) -> int:
    """The only entry of a list of degrees or orders."""
    check_type(name, values, Sequence[int], "a sequence of one whole number")
    if len(values) != 1:
        raise ValueError(
            f"{name} must have one entry: the published networks run at one resolution, got {list(values)}"
        )
    check_count(name, values[0], 0)
    return values[0]


def checkpointed_blocks(values: Sequence[int] | None, layers: int) -> list[bool]:
    """Which layers are computed again in the backward pass, from ``gradient_checkpointing_block_list``."""
    name = "gradient_checkpointing_block_list"
    if values is None:
        return [False] * layers
    check_type(name, values, Sequence[int], "a sequence of 0 and 1, one per layer")
    if len(values) != layers or any(value not in (0, 1) for value in values):
        raise ValueError(f"{name} must have 0 or 1 for each of the {layers} layers, got {list(values)}")
    return [value == 1 for value in values]


def check_grid(name: str, values: Sequence[int] | None, lmax: int) -> None:
    """ValueError unless (latitudes, longitudes) make a grid for degree `lmax`; None passes."""
    if values is None:
        return
    check_type(name, values, Sequence[int], "a sequence of two whole numbers: latitudes and longitudes")
    if len(values) != 2 or values[0] % 2 or values[0] < 2 * (lmax + 1) or values[1] < 1:
        raise ValueError(
            f"{name} must be latitudes and longitudes, of which the first is even and at least {2 * (lmax + 1)} for"
            f" degree {lmax}; got {list(values)}"
        )
