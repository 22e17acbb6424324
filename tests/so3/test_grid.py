"""Quadrature on the sphere: exact up to the degree it promises."""

import math

import pytest
import torch

from equiformer_pytorch.so3.grid import gauss_legendre, sphere_quadrature


@pytest.mark.parametrize("count", [1, 2, 5, 21])
def test_gauss_legendre_is_exact_below_twice_the_count(count):
    nodes, weights = gauss_legendre(count)
    assert nodes.dtype == weights.dtype == torch.float64
    for power in range(2 * count):
        exact = 0.0 if power % 2 else 2 / (power + 1)
        assert math.isclose((weights * nodes**power).sum().item(), exact, abs_tol=1e-13)
    beyond = (weights * nodes ** (2 * count)).sum().item()
    assert beyond < 2 / (2 * count + 1) - 1e-12 or count > 10


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 8])
def test_sphere_quadrature_is_exact_up_to_its_degree(degree):
    points, weights = sphere_quadrature(degree)
    torch.testing.assert_close(points.norm(dim=-1), torch.ones(len(points), dtype=torch.float64))
    for a in range(degree + 1):
        for b in range(degree + 1 - a):
            for c in range(degree + 1 - a - b):
                mean = (weights * points[:, 0] ** a * points[:, 1] ** b * points[:, 2] ** c).sum().item()
                assert math.isclose(mean, exact_mean(a, b, c), abs_tol=1e-14)


def exact_mean(a: int, b: int, c: int) -> float:
    """Mean of x^a y^b z^c over the unit sphere."""
    if a % 2 or b % 2 or c % 2:
        return 0.0
    half = math.prod(math.gamma((p + 1) / 2) for p in (a, b, c)) / math.gamma((a + b + c + 3) / 2)
    return half / (2 * math.pi)
