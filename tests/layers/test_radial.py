"""Envelope and radial network."""

import math

import pytest
import torch

from equiformer_pytorch.layers.radial import Envelope, EvenBasis, LogBasis, RadialNetwork

# Of Equiformer, and of the published models.
EXPONENTS = pytest.mark.parametrize("exponent", [6, 5])


@EXPONENTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelope(dtype, exponent):
    radius = 3.0
    x = torch.linspace(0, 5, 501, dtype=dtype)
    u = Envelope(exponent)(x, radius)
    assert u.dtype == dtype
    assert u[0] == 1
    assert (u[x >= radius] == 0).all()
    assert (u.diff() <= 1e-6).all()
    assert ((u >= 0) & (u <= 1 + 1e-6)).all()
    assert u[x < radius - 0.01].min() > 0


@EXPONENTS
def test_envelope_is_the_polynomial(exponent):
    p, x = exponent, torch.rand(20, dtype=torch.float64)
    wanted = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    torch.testing.assert_close(Envelope(p)(2.5 * x, 2.5), wanted, rtol=0, atol=1e-12)


@EXPONENTS
def test_envelope_has_two_continuous_derivatives_at_the_radius(exponent):
    envelope = Envelope(exponent)
    x = torch.tensor([2.0 - 1e-5, 2.0, 2.0 + 1e-5], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(envelope(x, 2.0).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert first.abs().max() < 1e-8
    assert second.abs().max() < 1e-2
    x = torch.rand(5, dtype=torch.float64).mul(1.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: envelope(x, 2.0), (x,))
    assert torch.autograd.gradgradcheck(lambda x: envelope(x, 2.0), (x,))


def test_the_default_radius_leaves_neighbours_alone():
    assert (Envelope(6)(torch.tensor([0.0, 1.0, 30.0]), 1e5) - 1).abs().max() < 1e-6


def test_network_sees_gaussians_of_the_logarithm():
    """24 evenly spaced ones between 0 and log(65), of the 24th part of that as width; the logarithm; the features."""
    network = RadialNetwork(2, 5, LogBasis()).double()
    distance, features = 70 * torch.rand(9, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    span, logarithm = math.log(65), (1 + distance).log()[:, None]
    centres = torch.linspace(0, span, 24, dtype=torch.float64)
    gaussians = (-0.5 * ((logarithm - centres) / (span / 24)).square()).exp()
    wanted = network.rest(network.first(torch.cat((gaussians, logarithm, features), dim=1)))
    torch.testing.assert_close(network(distance, features), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_even_basis(dtype):
    """32 Gaussians between 0 and the cutoff, of the 32nd part of it as width."""
    basis, distance = EvenBasis(4.0), 5 * torch.rand(9, dtype=dtype)
    wanted = (-0.5 * ((distance[:, None] - torch.linspace(0, 4, 32, dtype=dtype)) / (4 / 32)).square()).exp()
    found = basis(distance)
    assert found.dtype == dtype
    assert found.shape == (9, basis.width)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    network = RadialNetwork(2, 5, basis.double()).to(dtype)
    features = torch.randn(9, 2, dtype=dtype)
    torch.testing.assert_close(
        network(distance, features), network.rest(network.first(torch.cat((found, features), 1)))
    )


def test_network():
    network = RadialNetwork(3, 8, LogBasis()).double()
    distance = torch.tensor([0.0, 0.1, 1.5, 40.0, 1e4], dtype=torch.float64)
    features = torch.randn(5, 3, dtype=torch.float64)
    out = network(distance, features)
    assert out.shape == (5, 8)
    assert out.isfinite().all()
    far = network(torch.tensor([1e3, 1e4], dtype=torch.float64), torch.zeros(2, 3).double())
    assert (far[0] - far[1]).abs().max() > 1e-3, "far distances are told apart"
    with_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    network(with_zero, torch.zeros(1, 3).double()).sum().backward()
    assert math.isfinite(with_zero.grad.item())
    low = network.bfloat16()(distance.float(), features.bfloat16())
    assert low.dtype == torch.bfloat16
