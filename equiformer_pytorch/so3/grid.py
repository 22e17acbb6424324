"""Quadrature on the sphere."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def gauss_legendre(count: int) -> tuple[Float64[Tensor, " count"], Float64[Tensor, " count"]]:
    r"""Nodes and weights with :math:`\sum_k w_k f(x_k) = \int_{-1}^{1} f(x)\,dx` for polynomials of degree < 2·count.

    The nodes are the eigenvalues of the Jacobi matrix of the Legendre polynomials (Golub & Welsch 1969).
    """
    k = torch.arange(1, count, dtype=torch.float64)
    off_diagonal = k / (4 * k * k - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return nodes, 2 * vectors[0].square()


def sphere_quadrature(degree: int) -> tuple[Float64[Tensor, "points 3"], Float64[Tensor, " points"]]:
    """Points on the unit sphere and weights of sum 1 whose weighted mean is exact for polynomials up to `degree`.

    Gauss–Legendre along the polar axis y, equally spaced in the azimuth, which counts from z towards x.
    """
    y, weight = gauss_legendre(degree // 2 + 1)
    azimuths = degree + 1
    phi = torch.arange(azimuths, dtype=torch.float64) * (2 * math.pi / azimuths)
    ring = (1 - y * y).sqrt()
    x = ring[:, None] * phi.sin()
    z = ring[:, None] * phi.cos()
    points = torch.stack((x, y[:, None].expand_as(x), z), dim=-1)
    weights = (weight / (2 * azimuths))[:, None].expand(-1, azimuths)
    return points.reshape(-1, 3), weights.reshape(-1)
