"""Small helpers of the published package that scripts import."""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def exists(val: object) -> bool:
    """Whether `val` is not None."""
    return val is not None


def default(val: T | None, d: T) -> T:
    """`val`, or `d` where it is None."""
    return d if val is None else val


def to_order(degree: int) -> int:
    """Number of orders of a degree, 2·degree + 1."""
    return 2 * degree + 1


def cast_tuple(val: Any, depth: int = 1) -> tuple:
    """`val` itself if it is a tuple, a list as a tuple, anything else `depth` times."""
    if isinstance(val, list | tuple):
        return tuple(val)
    return (val,) * depth


@contextlib.contextmanager
def torch_default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype within a ``with`` block; the old one comes back even after an error."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)
