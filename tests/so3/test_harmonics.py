"""Spherical harmonics against e3nn, and what defines them."""

import pytest
import torch
from e3nn import o3
from hypothesis import given
from hypothesis import strategies as st

from equiformer_pytorch.so3.grid import sphere_quadrature
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.testing import assert_gradients
from tests import tolerances

POLES = torch.tensor(
    [[0, 1, 0], [0, -1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1], [1e-9, 1, 0], [0, -1, 1e-9]],
    dtype=torch.float64,
)


def directions(count: int = 50) -> torch.Tensor:
    x = torch.cat((torch.randn(count, 3, dtype=torch.float64), POLES))
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6, 10, 11])
def test_equal_e3nn(degree):
    r = directions()
    ours = spherical_harmonics(r, recurrence_constants(degree))
    theirs = o3.spherical_harmonics(list(range(degree + 1)), r, normalize=False, normalization="component")
    assert ours.dtype == torch.float64
    assert (ours - theirs).abs().max() < tolerances.ORACLE * (degree + 1)


def test_degree_one_is_x_y_z():
    r = directions()
    ours = spherical_harmonics(r, recurrence_constants(1))[:, 1:]
    torch.testing.assert_close(ours, 3**0.5 * r, rtol=0, atol=1e-14)


def test_even_only_leaves_out_the_odd_degrees():
    r, constants = directions(), recurrence_constants(6)
    every = spherical_harmonics(r, constants).split([2 * d + 1 for d in range(7)], dim=-1)
    torch.testing.assert_close(spherical_harmonics(r, constants, even_only=True), torch.cat(every[::2], -1))


def test_orthonormal_to_degree_20():
    points, weights = sphere_quadrature(40)
    y = spherical_harmonics(points, recurrence_constants(20))
    torch.testing.assert_close((y * weights[:, None]).T @ y, torch.eye(21**2, dtype=torch.float64), rtol=0, atol=1e-11)


def test_gradients_of_two_orders_also_at_the_poles():
    constants = recurrence_constants(3)
    assert_gradients(lambda r: spherical_harmonics(r, constants), {"r": POLES})


@given(shape=st.lists(st.integers(0, 3), max_size=3), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_leading_shape_and_the_dtype_of_the_directions(shape, dtype):
    r = torch.nn.functional.normalize(torch.randn(*shape, 3, dtype=dtype), dim=-1)
    y = spherical_harmonics(r, recurrence_constants(2).to(dtype))
    assert y.shape == (*shape, 9)
    assert y.dtype == dtype
