"""Promise 2: gradients of first and second order are those of the function. (Reversible ones: test_reversible.py.)"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from tests import tolerances
from tests.models import KINDS, build, example

TINY = {"dim": (3, 2, 2), "dim_in": (2,), "dim_head": 2, "radial_hidden_dim": 4}
CHECKED = [kind for kind in KINDS if "reversible" not in kind]


def setting(kind: str, points: int = 4, **options):
    """A model, and its output as a function of coordinates, float features and float edges."""
    tiny = {**TINY, "dim_in": (2, 2)} if "degrees-in" in kind else TINY
    model = build(**{**tiny, **KINDS[kind], "dim_in": tiny["dim_in"], **options})
    sample = example(model, batch=1, points=points, spread=0.6)
    sample.coors.requires_grad_()
    features = [sample.inputs] if isinstance(sample.inputs, torch.Tensor) else list(sample.inputs.values())
    edges = sample.extra.get("edges")
    floats = [x for x in (*features, edges) if x is not None and x.is_floating_point()]
    for x in floats:
        x.requires_grad_()

    def function(coors, *_):
        out = model(sample.inputs, coors, **sample.extra, return_all_degrees=True)
        return torch.cat([x.flatten() for x in out.values()])

    return model, sample, function, [sample.coors, *floats]


@pytest.mark.parametrize("kind", CHECKED)
def test_inputs_first_order(kind):
    _, _, function, inputs = setting(kind)
    assert gradcheck(function, inputs, **tolerances.GRADCHECK)


@pytest.mark.parametrize("kind", CHECKED)
def test_inputs_second_order(kind):
    _, _, function, inputs = setting(kind, points=3)
    assert gradgradcheck(function, inputs, **tolerances.GRADGRADCHECK, fast_mode=True)


def test_second_order_in_full():
    for kind in ("l2", "mlp"):
        model, sample, _, _ = setting(kind, points=3, depth=1, num_degrees=2, dim=(2, 2), output_degrees=2)

        def function(coors, model=model, sample=sample):
            out = model(sample.inputs.detach(), coors)
            return (out.type1 * torch.arange(1.0, 4.0)).sum() + out.type0.square().sum()

        assert gradgradcheck(function, (sample.coors,), **tolerances.GRADGRADCHECK)


def of_parameters(model, sample):
    """The output as a function of all parameters, their names and values."""
    names, values = zip(*model.named_parameters(), strict=True)

    def function(*values):
        parameters = dict(zip(names, values, strict=True))
        extra = {**sample.extra, "return_all_degrees": True}
        out = functional_call(model, parameters, (sample.inputs, sample.coors), extra)
        return torch.cat([x.flatten() for x in out.values()])

    return function, names, values


@pytest.mark.parametrize("kind", CHECKED)
def test_every_parameter(kind):
    model, sample, _, _ = setting(kind, points=3)
    sample.coors.requires_grad_(False)
    function, names, values = of_parameters(model, sample)
    assert gradcheck(function, values, **tolerances.GRADCHECK, fast_mode=True)
    for name, gradient in zip(names, torch.autograd.grad(function(*values).square().sum(), values), strict=True):
        assert gradient.abs().max() > 0, f"no gradient reaches {name}"


@pytest.mark.parametrize("kind", ["l2", "mlp", "mlp-linear-heads", "l2-edges"])
def test_every_parameter_of_forces(kind):
    """Second order, mixed: what training on forces needs."""
    model, sample, _, _ = setting(kind, points=3, depth=1)
    function, _, values = of_parameters(model, sample)

    def force(*values):
        return torch.autograd.grad(function(*values).square().sum(), sample.coors, create_graph=True)[0]

    assert gradcheck(force, values, **tolerances.GRADGRADCHECK, fast_mode=True)


@pytest.mark.parametrize("embedding", [{"num_tokens": 4}, {"num_positions": 5}, {"num_tokens": 4, "num_positions": 5}])
def test_embeddings_without_softening(embedding):
    model, sample, _, _ = setting("l2", points=3, embedding_grad_frac=1, **embedding)
    names = [name for name, _ in model.named_parameters() if name.startswith("point_features")]
    assert names
    values = [model.get_parameter(name) for name in names]

    def function(*values):
        return functional_call(model, dict(zip(names, values, strict=True)), (sample.inputs, sample.coors)).type0

    assert gradcheck(function, values, **tolerances.GRADCHECK)


@settings(max_examples=6)
@given(
    sign=st.sampled_from([1.0, -1.0]),
    exponent=st.floats(-9, -3),
    azimuth=st.floats(0, 2 * math.pi),
    kind=st.sampled_from(["l2", "mlp"]),
)
def test_edges_close_to_the_polar_axis(sign, exponent, azimuth, kind):
    """Also exactly along it, and on the border of the two charts."""
    model, sample, _, _ = setting(kind, depth=1)
    tilt = 10**exponent
    x, z = tilt * math.cos(azimuth), tilt * math.sin(azimuth)
    coors = torch.tensor([[[0, 0, 0], [x, sign, z], [0, -1.3 * sign, 0], [1.1, tilt, 0.4]]], dtype=torch.float64)

    def function(coors):
        out = model(sample.inputs.detach(), coors, return_all_degrees=True)
        return torch.stack([(x * torch.linspace(-1, 1, x[0, 0].numel()).view_as(x[0, 0])).sum() for x in out.values()])

    coors.requires_grad_()
    assert gradcheck(function, (coors,), **tolerances.GRADCHECK)
    assert gradgradcheck(function, (coors,), **tolerances.GRADGRADCHECK, fast_mode=True)


def test_coincident_points_have_finite_gradients_of_two_orders():
    for kind in ("l2", "mlp"):
        model, sample, _, _ = setting(kind)
        coors = sample.coors.detach().clone()
        coors[0, 1] = coors[0, 0]
        coors.requires_grad_()
        out = model(sample.inputs, coors, return_all_degrees=True)
        (force,) = torch.autograd.grad(sum(x.square().sum() for x in out.values()), coors, create_graph=True)
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
    _, _, function, inputs = setting("mlp")
    first = torch.autograd.grad(function(*inputs).square().sum(), inputs)
    second = torch.autograd.grad(function(*inputs).square().sum(), inputs)
    for one, two in zip(first, second, strict=True):
        assert one.equal(two)
