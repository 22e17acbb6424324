"""Wigner matrices of angles against e3nn, and the polynomial of half-turns."""

import time

import pytest
import torch

from equiformer_pytorch.so3 import wigner
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from tests import tolerances
from tests.oracle import wigner_d


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5, 8, 10])
def test_rotations_about_y_and_z_equal_e3nn(degree):
    angle = torch.tensor([-2.0, 0.0, 0.3, 1.0, 3.2, 7.0], dtype=torch.float64)
    zero = torch.zeros_like(angle)
    about_y = wigner_d(degree, angle, zero, zero)
    # Y(π/2) carries z to x, X turns about x, Y(−π/2) carries x back.
    quarter = torch.full_like(angle, torch.pi / 2)
    about_z = wigner_d(degree, -quarter, angle, quarter)
    assert (wigner.rotation_about_y(degree, angle) - about_y).abs().max() < tolerances.ORACLE
    assert (wigner.rotation_about_z(degree, angle) - about_z).abs().max() < tolerances.ORACLE


@pytest.mark.parametrize("degree", [1, 2, 6, 10])
def test_half_turns_follow_from_the_even_harmonics_of_the_axis(degree):
    axis = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    harmonics = spherical_harmonics(axis, recurrence_constants(2 * degree), even_only=True)
    matrices = (harmonics @ wigner.half_turn_coefficients(degree)).unflatten(-1, (2 * degree + 1, -1))
    assert (matrices @ matrices - torch.eye(2 * degree + 1, dtype=torch.float64)).abs().max() < 1e-11
    points = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=-1)
    turned = 2 * (axis @ points.T)[:, :, None] * axis[:, None] - points
    constants = recurrence_constants(degree)
    expected = spherical_harmonics(turned, constants)[..., degree**2 :]
    got = spherical_harmonics(points, constants)[:, degree**2 :] @ matrices.mT
    assert (got - expected).abs().max() < 1e-11


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_signs_are_the_half_turn_about_x(degree):
    half = torch.tensor(torch.pi, dtype=torch.float64)
    matrix = wigner_d(degree, torch.zeros_like(half), half, torch.zeros_like(half))
    assert (torch.diag(wigner.x_half_turn_signs(degree)) - matrix).abs().max() < tolerances.ORACLE


def test_coefficients_of_degree_10_are_quick_and_of_float64():
    start = time.perf_counter()
    for degree in range(1, 11):
        assert wigner.half_turn_coefficients(degree).dtype == torch.float64
    assert time.perf_counter() - start < 1
