"""Rotations: against the matrix exponential, at half-turns, and the heat kernel against its mean."""

from __future__ import annotations

import math

import pytest
import torch

from examples.backbones import rotations


def vectors() -> torch.Tensor:
    """Of all lengths up to π, zero, tiny and half-turns among them."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator, dtype=torch.float64), dim=-1)
    drawn = drawn * torch.rand(200, 1, generator=generator, dtype=torch.float64) * math.pi
    special = [[0, 0, 0], [1e-9, 0, 0], [math.pi, 0, 0], [0, -math.pi, 0], [0, 0, math.pi - 1e-7], [1e-4, 2e-4, 0]]
    return torch.cat((drawn, torch.tensor(special, dtype=torch.float64)))


def test_exponential_is_the_matrix_exponential() -> None:
    expected = torch.linalg.matrix_exp(rotations.cross_matrix(vectors()))
    torch.testing.assert_close(rotations.exponential(vectors()), expected, atol=1e-13, rtol=0)


def test_logarithm_undoes_the_exponential() -> None:
    turned = rotations.exponential(vectors())
    found = rotations.logarithm(turned)
    assert found.norm(dim=-1).max() <= math.pi + 1e-12
    torch.testing.assert_close(rotations.exponential(found), turned, atol=1e-13, rtol=0)


def test_gradients_are_finite_at_no_rotation() -> None:
    vector = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotations.exponential, (vector,))


def test_two_vectors_make_a_right_handed_frame() -> None:
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).unbind(0)
    frame = rotations.from_two(first, second)
    torch.testing.assert_close(frame.mT @ frame, torch.eye(3).expand(5, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(frame), torch.ones(5))
    assert ((frame[..., 0] * first).sum(-1) > 0).all()
    assert rotations.from_two(first, first).isfinite().all()


@pytest.mark.parametrize("width", [0.02, 0.3, 0.8, 1.5, 2.5])
def test_heat_kernel(width: float) -> None:
    """Its mean is exp(−τ²) times the identity: the eigenvalue of degree 1 is exp(−l (l + 1) τ² / 2)."""
    drawn = rotations.HeatKernel().draw(torch.full((20_000,), width), torch.Generator().manual_seed(0))
    expected = math.exp(-(width**2)) * torch.eye(3)
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.025, rtol=0)


def test_uniform_rotations_have_no_mean() -> None:
    drawn = rotations.random_rotations(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3, 3), atol=0.02, rtol=0)
    # The mean square of the trace of a uniform rotation is 1.
    assert float(drawn.diagonal(dim1=1, dim2=2).sum(-1).square().mean()) == pytest.approx(1, abs=0.03)
