"""Promise 9: state_dict, deepcopy, pickle, torch.save; torch.func. (DistributedDataParallel: test_distributed.py.)"""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vmap

from equiformer_pytorch import Equiformer
from tests.models import KINDS, SMALL, build, example, grad_of, relative, squares
from tests.promises.test_reversible import without_reversing


def assert_equal_outputs(one, two, sample) -> None:
    expected = sample.all_degrees(one)
    for degree, x in sample.all_degrees(two).items():
        assert x.equal(expected[degree])


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict(kind):
    model = build(**KINDS[kind], seed=3)
    other = build(**KINDS[kind], seed=4)
    other.load_state_dict(model.state_dict())
    assert_equal_outputs(model, other, example(model))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_state_dict_of_another_precision():
    """Everything that makes the result is in the state: casting must not leave traces in what is not."""
    for kind in ("l2", "mlp"):
        cast = build(torch.float64, **KINDS[kind]).bfloat16().double()
        fresh = build(torch.float64, **KINDS[kind])
        fresh.load_state_dict(cast.state_dict())
        sample = example(cast)
        expected = sample.all_degrees(fresh)
        for degree, x in sample.all_degrees(cast).items():
            assert relative(x, expected[degree]) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_deepcopy_pickle_and_torch_save(kind):
    model = build(**KINDS[kind])
    sample = example(model)
    copied = copy.deepcopy(model)
    assert_equal_outputs(model, copied, sample)
    assert_equal_outputs(model, pickle.loads(pickle.dumps(model)), sample)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert_equal_outputs(model, torch.load(file, weights_only=False), sample)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build(**KINDS[kind], seed=8)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_equal_outputs(model, other, sample)

    expected = sample.all_degrees(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    for degree, x in sample.all_degrees(model).items():
        assert x.equal(expected[degree]), "the copy shares parameters with the original"


def test_copies_after_a_backward_pass():
    model = build(reversible=True)
    sample = example(model)
    squares(sample.all_degrees(model)).backward()
    assert_equal_outputs(model, copy.deepcopy(model), sample)
    assert_equal_outputs(model, pickle.loads(pickle.dumps(model)), sample)


FUNCTIONAL = ["l2", "mlp", "mlp-linear-heads", "l2-radius", "l2-adjacency", "mlp-bonds", "l2-reversible", "l2-reduced"]


def scalar_of(model, sample):
    def scalar(parameters, coors):
        extra = {**sample.extra, "return_all_degrees": True}
        out = functional_call(model, parameters, (sample.inputs, coors), extra)
        return squares(out)

    return scalar, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", FUNCTIONAL)
def test_functional_call_and_grad(kind):
    model = build(**KINDS[kind])
    sample = example(model, points=5)
    scalar, parameters = scalar_of(model, sample)
    expected = squares(sample.all_degrees(model))
    assert relative(scalar(parameters, sample.coors), expected) < 1e-13

    by_parameters, by_coors = grad(scalar, argnums=(0, 1))(parameters, sample.coors)
    sample.coors.requires_grad_()
    squares(sample.all_degrees(model)).backward()
    assert relative(by_coors, grad_of(sample.coors)) < 1e-10
    for name, parameter in model.named_parameters():
        assert relative(by_parameters[name], grad_of(parameter)) < 1e-9, name


# torch's own forward mode warns of its own scripted functions when it is first used.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["l2", "mlp", "l2-radius", "l2-adjacency", "l2-reversible"])
def test_jacrev_and_hessian(kind):
    model = build(**{**KINDS[kind], "depth": 1}, dim_head=2)
    sample = example(model, batch=1, points=3)
    scalar, parameters = scalar_of(model, sample)

    def vectors(coors):
        return functional_call(model, parameters, (sample.inputs, coors), sample.extra).type1

    expected: Any = torch.autograd.functional.jacobian(vectors, sample.coors)
    assert relative(jacrev(vectors)(sample.coors), expected) < 1e-10
    second = hessian(lambda coors: scalar(parameters, coors))(sample.coors)
    if not model.layers.__class__.__name__.startswith("Reversible"):
        expected = torch.autograd.functional.hessian(lambda coors: scalar(parameters, coors), sample.coors)
    else:
        plain = without_reversing(model)
        scalar, _ = scalar_of(plain, sample)
        expected = torch.autograd.functional.hessian(lambda coors: scalar(parameters, coors), sample.coors)
    assert relative(second, expected) < 1e-9


@pytest.mark.parametrize("kind", ["l2", "mlp", "mlp-linear-heads", "l2-adjacency", "mlp-bonds", "l2-reversible"])
def test_vmap_over_an_ensemble_of_parameters(kind):
    models = [build(**KINDS[kind], seed=seed) for seed in range(3)]
    sample = example(models[0], points=5)
    parameters, buffers = stack_module_state(models)

    def call(parameters, buffers):
        extra = {**sample.extra, "return_all_degrees": True}
        return functional_call(models[0], (parameters, buffers), (sample.inputs, sample.coors), extra)

    together = vmap(call)(parameters, buffers)
    gradients = vmap(grad(lambda p, b: squares(call(p, b))))(parameters, buffers)
    for i, model in enumerate(models):
        expected = sample.all_degrees(model)
        for degree, x in together.items():
            assert relative(x[i], expected[degree]) < 1e-11
        squares(expected).backward()
        for name, parameter in model.named_parameters():
            assert relative(gradients[name][i], grad_of(parameter)) < 1e-9, name


def test_reversible_functional_gradients_equal_the_plain_ones():
    model = build(reversible=True, depth=3)
    plain = without_reversing(model)
    sample = example(model, points=5)
    results = []
    for which in (model, plain):
        scalar, parameters = scalar_of(which, sample)
        results.append(grad(scalar, argnums=(0, 1))(parameters, sample.coors))
    assert relative(results[0][1], results[1][1]) < 1e-9
    for name, x in results[1][0].items():
        assert relative(results[0][0][name], x) < 1e-9, name


def test_training_runs_and_to_between_devices_of_the_same_kind():
    model = Equiformer(**SMALL).to("cpu", torch.float64)
    sample = example(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = (model(sample.inputs, sample.coors).type1.mean(2) - sample.coors).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
