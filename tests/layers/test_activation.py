"""Functions of invariants that all families use."""

import pytest
import torch

from equiformer_pytorch.layers.activation import gated, silu_slope, smooth_leaky_relu
from equiformer_pytorch.testing import assert_gradients
from tests.ops.graphs import normal


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.2, 1.0])
def test_smooth_leaky_relu_is_its_formula(slope: float):
    r"""(1 + a)/2 x + (1 − a)/2 x (2σ(x) − 1), also where no gradient is wanted."""
    x = 4 * normal(30)
    wanted = (1 + slope) / 2 * x + (1 - slope) / 2 * x * (2 * x.sigmoid() - 1)
    torch.testing.assert_close(smooth_leaky_relu(x, slope), wanted)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(smooth_leaky_relu(leaf, slope), wanted)
    with torch.no_grad():
        assert torch.equal(smooth_leaky_relu(leaf, slope), smooth_leaky_relu(x, slope))
    far = torch.tensor([-60.0, 60.0], dtype=torch.float64)
    torch.testing.assert_close(smooth_leaky_relu(far, slope), torch.nn.functional.leaky_relu(far, slope))


def test_derivatives_of_smooth_leaky_relu():
    x = 2 * normal(5)
    assert_gradients(lambda x: smooth_leaky_relu(x, 0.1), {"x": x})
    orders = []
    for function in (smooth_leaky_relu, lambda x: 0.2 * x + 0.8 * x * x.sigmoid()):
        slope = leaf = x.clone().requires_grad_()
        loss = function(leaf).sin().sum()
        for _ in range(4):
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            loss = slope.square().sum()
        orders.append(slope)
    torch.testing.assert_close(*orders)
    per_sample = torch.func.vmap(torch.func.grad(smooth_leaky_relu))(x)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(smooth_leaky_relu(leaf).sum(), leaf)
    torch.testing.assert_close(per_sample, wanted)


def test_the_slope_of_silu_with_and_without_a_derivative_of_its_own():
    x, slope = 3 * normal(20).requires_grad_(), normal(20, seed=1)
    (wanted,) = torch.autograd.grad(torch.nn.functional.silu(x), x, slope)
    torch.testing.assert_close(silu_slope(slope, x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(silu_slope(slope, x), wanted)
    assert_gradients(silu_slope, {"slope": slope[:3], "x": x.detach()[:3]})


def test_gated():
    """The first half times the sigmoids of the second, also of every row by itself."""
    x = 2 * normal(4, 6)
    wanted = x[:, :3] * x[:, 3:].sigmoid()
    torch.testing.assert_close(gated(x), wanted)
    assert_gradients(gated, {"x": x[:2]})
    torch.testing.assert_close(torch.func.vmap(lambda row: gated(row[None])[0])(x), wanted)
    (slopes,) = torch.autograd.grad(gated(x.requires_grad_()).sin().sum(), x)
    found = torch.func.vmap(torch.func.grad(lambda row: gated(row[None]).sin().sum()))(x.detach())
    torch.testing.assert_close(found, slopes)
    hessian = torch.func.jacrev(torch.func.grad(lambda x: gated(x).sin().sum()))(x.detach()[:1])
    exact = torch.autograd.functional.hessian(lambda x: (x[:, :3] * x[:, 3:].sigmoid()).sin().sum(), x.detach()[:1])
    torch.testing.assert_close(hessian, exact)
