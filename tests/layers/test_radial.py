"""Envelope and radial network."""

import math

import pytest
import torch

from equiformer_pytorch.layers.radial import RadialNetwork, envelope
from tests.models import grad_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelope(dtype):
    radius = 3.0
    x = torch.linspace(0, 5, 501, dtype=dtype)
    u = envelope(x, radius)
    assert u[0] == 1
    assert (u[x >= radius] == 0).all()
    assert (u.diff() <= 1e-6).all()
    assert ((u >= 0) & (u <= 1 + 1e-6)).all()
    assert u[x < radius - 0.01].min() > 0


def test_envelope_has_two_continuous_derivatives_at_the_radius():
    x = torch.tensor([2.0 - 1e-5, 2.0, 2.0 + 1e-5], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(envelope(x, 2.0).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert first.abs().max() < 1e-8
    assert second.abs().max() < 1e-2
    x = torch.rand(5, dtype=torch.float64).mul(1.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: envelope(x, 2.0), (x,))
    assert torch.autograd.gradgradcheck(lambda x: envelope(x, 2.0), (x,))


def test_the_default_radius_leaves_neighbours_alone():
    assert (envelope(torch.tensor([0.0, 1.0, 30.0]), 1e5) - 1).abs().max() < 1e-6


def test_network():
    network = RadialNetwork(3, 8).double()
    distance = torch.tensor([0.0, 0.1, 1.5, 40.0, 1e4], dtype=torch.float64)
    features = torch.randn(5, 3, dtype=torch.float64)
    out = network(distance, features)
    assert out.shape == (5, 8)
    assert out.isfinite().all()
    far = network(torch.tensor([1e3, 1e4], dtype=torch.float64), torch.zeros(2, 3).double())
    assert (far[0] - far[1]).abs().max() > 1e-3, "far distances are told apart"
    with_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    network(with_zero, torch.zeros(1, 3).double()).sum().backward()
    assert math.isfinite(grad_of(with_zero).item())
    low = network.bfloat16()(distance.float(), features.bfloat16())
    assert low.dtype == torch.bfloat16
