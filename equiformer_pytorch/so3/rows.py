"""How features are laid out: degree-major at the points, order-major in the frame of an edge."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


def components(max_degree: int) -> int:
    """Numbers per channel of degrees 0 … L: (L+1)²."""
    return (max_degree + 1) ** 2


def order_major_rows(max_degree: int, max_order: int) -> list[tuple[int, int]]:
    """(degree, signed order) of the rows in an edge frame: `|m|` ascending, +m before −m, then by degree."""
    return [
        (degree, sign * order)
        for order in range(max_order + 1)
        for sign in ((1, -1) if order else (1,))
        for degree in range(order, max_degree + 1)
    ]


def degree_major_rows(max_degree: int, max_order: int) -> list[tuple[int, int]]:
    """(degree, signed order) of the rows at a point, those with `|m|` ≤ `max_order`."""
    return [
        (degree, order)
        for degree in range(max_degree + 1)
        for order in range(-min(degree, max_order), min(degree, max_order) + 1)
    ]


def rescale(degree: int, max_order: int) -> float:
    r"""Factor :math:`\sqrt{(2l+1)/(2 m_{max}+1)}` that makes up for the orders left out; 1 where none are."""
    return ((2 * degree + 1) / (2 * max_order + 1)) ** 0.5 if degree > max_order else 1.0


def rescaled_rows(
    max_degree: int, max_order: int, used: int, low: int = 0, high: int | None = None
) -> Float64[Tensor, " rows"]:
    """:func:`rescale` of order-major rows with `|m|` ≤ `max_order` of degrees ``low … high − 1``, where orders up to
    `used` are in use."""
    kept = range(low, max_degree + 1 if high is None else high)
    rows = [degree for degree, _ in order_major_rows(max_degree, max_order) if degree in kept]
    return torch.tensor([rescale(degree, used) for degree in rows], dtype=torch.float64)


def kept_rows(max_degree: int, max_order: int, low: int, high: int) -> Int[Tensor, " rows"]:
    """Places of the order-major rows of degrees ``low … high − 1``."""
    rows = order_major_rows(max_degree, max_order)
    return torch.tensor([place for place, (degree, _) in enumerate(rows) if low <= degree < high])


def degree_index(max_degree: int) -> list[int]:
    """The degree of each degree-major component."""
    return [degree for degree in range(max_degree + 1) for _ in range(2 * degree + 1)]


def component_degrees(low: int, high: int) -> Int[Tensor, " components"]:
    """Of each component of the degrees ``low … high − 1`` its degree, counted from the first."""
    return torch.tensor([degree - low for degree in degree_index(high - 1)[low**2 :]], dtype=torch.long)


def split_degrees(
    x: Float[Tensor, "points components channels"], max_degree: int, keep: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "points orders channels"], ...]:
    """Views of one degree each. x may hold only the degrees of `keep`, (first, last + 1): the others have no orders."""
    low, high = (0, max_degree + 1) if keep is None else keep
    return x.split([2 * degree + 1 if low <= degree < high else 0 for degree in range(max_degree + 1)], dim=1)


def add_scalars(
    x: Float[Tensor, "points components channels"], scalars: Float[Tensor, "points channels"]
) -> Float[Tensor, "points components channels"]:
    """x with `scalars` added to its first component."""
    return torch.cat((x[:, :1] + scalars[:, None], x[:, 1:]), dim=1)
