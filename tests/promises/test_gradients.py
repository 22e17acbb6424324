"""Promise 2: gradients of first and second order are those of the function. (Reversible ones: test_reversible.py.)"""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiformer_pytorch import Equiformer
from equiformer_pytorch.testing import assert_gradients
from tests.models import KINDS, build, example, grad_of, mostly_slow, squares

TINY = {"dim": (3, 2, 2), "dim_in": (2,), "dim_head": 2, "radial_hidden_dim": 4}
CHECKED = [kind for kind in KINDS if "reversible" not in kind]


def setting(kind: str, points: int = 4, **options: Any) -> tuple[Equiformer, dict[str, Any]]:
    """A model and what it is called with."""
    tiny = {**TINY, "dim_in": (2, 2)} if "degrees-in" in kind else TINY
    model = build(**{**tiny, **KINDS[kind], "dim_in": tiny["dim_in"], **options})
    sample = example(model, batch=1, points=points, spread=0.6)
    return model, {**sample.call(), "return_all_degrees": True}


@pytest.mark.parametrize("kind", mostly_slow(CHECKED, "l2", "mlp", "l2-radius", "mlp-linear-heads", "l2-edges"))
def test_inputs_first_order(kind):
    model, call = setting(kind)
    assert_gradients(model, call, second=False)


@pytest.mark.parametrize("kind", mostly_slow(CHECKED, "l2", "mlp", "l2-radius"))
def test_inputs_second_order(kind):
    model, call = setting(kind, points=3)
    assert_gradients(model, call, fast=True)


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_second_order_in_full(kind):
    model, call = setting(kind, points=3, depth=1, num_degrees=2, dim=(2, 2), output_degrees=2)

    def function(coors):
        out = model(call["inputs"], coors)
        return (out.type1 * torch.arange(1.0, 4.0)).sum() + out.type0.square().sum()

    assert_gradients(function, {"coors": call["coors"]})


@pytest.mark.parametrize("kind", mostly_slow(CHECKED, "l2", "mlp"))
def test_every_parameter(kind):
    model, call = setting(kind, points=3)
    assert_gradients(model, call, parameters=True, second=False, fast=True)
    squares(model(**call)).backward()
    for name, parameter in model.named_parameters():
        assert grad_of(parameter).abs().max() > 0, f"no gradient reaches {name}"


class Forces(torch.nn.Module):
    """Of a made-up energy of a model's outputs."""

    def __init__(self, model: Equiformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, **call: Any) -> torch.Tensor:
        coors = call["coors"].detach().requires_grad_()
        energy = squares(self.model(**{**call, "coors": coors}))
        return torch.autograd.grad(energy, coors, create_graph=True)[0]


@pytest.mark.parametrize("kind", ["l2", "mlp", "mlp-linear-heads", "l2-edges"])
def test_every_parameter_of_forces(kind):
    """Second order, mixed: what training on forces needs."""
    model, call = setting(kind, points=3, depth=1)
    assert_gradients(Forces(model), call, parameters=True, second=False, fast=True)


@pytest.mark.parametrize("embedding", [{"num_tokens": 4}, {"num_positions": 5}, {"num_tokens": 4, "num_positions": 5}])
def test_embeddings_without_softening(embedding):
    model, call = setting("l2", points=3, embedding_grad_frac=1, **embedding)
    assert any(name.startswith("point_features") for name, _ in model.named_parameters())
    assert_gradients(model, call, parameters=True, second=False, fast=True)


@settings(max_examples=6)
@given(
    sign=st.sampled_from([1.0, -1.0]),
    exponent=st.floats(-9, -3),
    azimuth=st.floats(0, 2 * math.pi),
    kind=st.sampled_from(["l2", "mlp"]),
)
def test_edges_close_to_the_polar_axis(sign, exponent, azimuth, kind):
    """Also exactly along it, and on the border of the two charts."""
    model, call = setting(kind, depth=1)
    tilt = 10**exponent
    x, z = tilt * math.cos(azimuth), tilt * math.sin(azimuth)
    coors = torch.tensor([[[0, 0, 0], [x, sign, z], [0, -1.3 * sign, 0], [1.1, tilt, 0.4]]], dtype=torch.float64)

    def function(coors):
        out = model(**{**call, "coors": coors})
        return torch.stack([(x * torch.linspace(-1, 1, x[0, 0].numel()).view_as(x[0, 0])).sum() for x in out.values()])

    assert_gradients(function, {"coors": coors}, second=False)
    assert_gradients(function, {"coors": coors}, fast=True)


def test_coincident_points_have_finite_gradients_of_two_orders():
    for kind in ("l2", "mlp"):
        model, call = setting(kind)
        coors = call["coors"]
        coors[0, 1] = coors[0, 0]
        coors.requires_grad_()
        energy = squares(model(**call))
        (force,) = torch.autograd.grad(energy, coors, create_graph=True)
        assert force.isfinite().all()
        force.square().sum().backward()
        assert coors.grad.isfinite().all()


def test_rotations_are_not_detached():
    """The gradient of a scalar is orthogonal to every rotation of the structure only if the frames are followed."""
    model = build(input_degrees=1)
    sample = example(model)
    sample.coors.requires_grad_()
    out = sample.all_degrees(model)
    scalar = out[0].square().sum() + out[1].square().sum() + out[2].square().sum()
    (force,) = torch.autograd.grad(scalar, sample.coors)
    torque = torch.linalg.cross(sample.coors.detach(), force).sum(1)
    assert force.abs().max() > 1e-3
    assert torque.abs().max() < 1e-11 * force.abs().max() * 10
    assert force.sum(1).abs().max() < 1e-11 * force.abs().max() * 10


def test_gradients_are_the_same_twice():
    model, call = setting("mlp")
    inputs = [call[name].requires_grad_() for name in ("inputs", "coors")]
    first, second = (torch.autograd.grad(squares(model(**call)), inputs) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert one.equal(two)
