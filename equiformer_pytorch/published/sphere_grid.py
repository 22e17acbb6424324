"""From features to samples on a sphere and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.so3.grid import gauss_legendre
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.so3.rows import degree_major_rows, order_major_rows, rescale


def equiangular(latitudes: int) -> tuple[Float64[Tensor, " latitudes"], Float64[Tensor, " latitudes"]]:
    r"""Nodes :math:`y_i = \cos(\pi (i + ½)/N)` and weights of sum 1, exact for polynomials of degree < N.

    (Fejér's first rule; Kostelec & Rockmore 2008 write it as a sum of sines, with 2b = N.)
    """
    angle = (torch.arange(latitudes, dtype=torch.float64) + 0.5) * (math.pi / latitudes)
    k = torch.arange(1, latitudes // 2 + 1, dtype=torch.float64)
    terms = (2 * k * angle[:, None]).cos() / (4 * k * k - 1)
    if latitudes % 2 == 0:
        terms[:, -1] = 0  # cos(N θ) vanishes at the nodes
    return angle.cos(), (1 - 2 * terms.sum(1)) / latitudes


@lru_cache(maxsize=64)
def grid_matrices(
    max_degree: int,
    max_order: int,
    latitudes: int,
    longitudes: int,
    order_major: bool,
    gauss: bool,
    integral: bool = False,
) -> tuple[Float64[Tensor, "samples rows"], Float64[Tensor, "rows samples"]]:
    r"""Matrices T to the samples of :math:`f(p) = \sum_{lm} s_l\,x_{lm} Y_{lm}(p)` and F back; F T = 1 on a fine grid.

    Y is "component" normalised and :math:`s_l = 1/\sqrt{(2l+1)(L+1)}`, so that every degree has the same variance on
    the sphere; or, with `integral`, :math:`s_l = 1/\sqrt{4π}`, so that the square of :math:`s_l Y` has the integral 1.
    With `max_order` < L both T and F are multiplied by :func:`~.layout.rescale`, as published. Latitudes
    are equiangular, or Gauss–Legendre nodes with `gauss`; longitudes are equally spaced from z towards x.
    """
    y, weight = equiangular(latitudes)
    if gauss:
        y, weight = gauss_legendre(latitudes)
        weight = weight / 2
    azimuth = torch.arange(longitudes, dtype=torch.float64) * (2 * math.pi / longitudes)
    ring = (1 - y * y).sqrt()
    x, z = ring[:, None] * azimuth.sin(), ring[:, None] * azimuth.cos()
    points = torch.stack((x, y[:, None].expand_as(x), z), dim=-1).reshape(-1, 3)
    harmonics = spherical_harmonics(points, recurrence_constants(max_degree))
    rows = (order_major_rows if order_major else degree_major_rows)(max_degree, max_order)
    harmonics = harmonics[:, [degree * (degree + 1) + order for degree, order in rows]]
    spread = torch.tensor([((2 * d + 1) * (max_degree + 1)) ** -0.5 for d, _ in rows], dtype=torch.float64)
    spread = torch.full_like(spread, (4 * math.pi) ** -0.5) if integral else spread
    rescaled = torch.tensor([rescale(d, max_order) for d, _ in rows], dtype=torch.float64)
    weights = (weight / longitudes)[:, None].expand(-1, longitudes).reshape(-1)
    return harmonics * (spread * rescaled), (harmonics * (rescaled / spread)).T * weights


def matrix_to_samples(*grid: int) -> Float64[Tensor, "samples rows"]:
    """T of :func:`grid_matrices`."""
    return grid_matrices(*grid)[0].clone()


def matrix_from_samples(*grid: int) -> Float64[Tensor, "rows samples"]:
    """F of :func:`grid_matrices`."""
    return grid_matrices(*grid)[1].clone()


class SphereGrid(ExactConstants):
    r"""Samples T x of features, and features F f of samples.

    Args:
        max_degree, max_order: of the features.
        resolution: (latitudes, longitudes); None for 2(L+1) latitudes and 2(L+1)+1 longitudes (2·max_order+1 if orders
            are left out), as published. The published latitudes are even.
        order_major: rows as in an edge frame, otherwise degree-major.
        product: the function of the samples is a product of two features. Where the published grid integrates
            such products exactly, the smallest Gauss–Legendre grid that does so replaces it: the same result
            to rounding from less than half the samples.
        integral: how harmonics are normalised, see :func:`grid_matrices`.
    """

    def __init__(
        self,
        max_degree: int,
        max_order: int,
        resolution: Sequence[int] | None,
        *,
        order_major: bool,
        product: bool = False,
        integral: bool = False,
    ) -> None:
        super().__init__()
        if resolution is None:
            resolution = 2 * (max_degree + 1), 2 * max_order + (3 if max_degree == max_order else 1)
        latitudes, longitudes = (int(number) for number in resolution)
        if latitudes < 2 * (max_degree + 1) or latitudes % 2:
            raise ValueError(
                f"the grid needs an even number of latitudes, at least {2 * (max_degree + 1)} for degree {max_degree}"
                f", got {latitudes}"
            )
        if longitudes < 1:
            raise ValueError(f"the grid needs at least one longitude, got {longitudes}")
        gauss = product and latitudes > 3 * max_degree and longitudes > 3 * max_order
        if gauss:
            latitudes, longitudes = (3 * max_degree) // 2 + 1, 3 * max_order + 1
        grid = max_degree, max_order, latitudes, longitudes, order_major, gauss, integral
        self.constant("to_samples", matrix_to_samples, *grid)
        self.constant("from_samples", matrix_from_samples, *grid)

    def matrices(self, dtype: torch.dtype) -> tuple[Float[Tensor, "samples rows"], Float[Tensor, "rows samples"]]:
        """T and F in the dtype of features."""
        return self.cast("to_samples", dtype), self.cast("from_samples", dtype)
