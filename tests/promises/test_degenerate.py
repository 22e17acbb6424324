"""Promise 7: no point, one, two, all masked, empty batches: defined and finite. Evaluation is deterministic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import KINDS, Example, build, example, mostly_slow, over_inputs, squares


def assert_finite(model, sample: Example) -> None:
    batch, points = sample.coors.shape[:2]
    sample.coors.requires_grad_()
    out = sample.all_degrees(model)
    for degree, x in out.items():
        assert x.shape == (batch, points, model.fiber_out[degree], 2 * degree + 1)
        assert x.isfinite().all()
    mask = sample.extra.get("mask")
    if mask is not None:
        for x in out.values():
            assert x[~mask].abs().sum() == 0
    pooled = model(sample.inputs, sample.coors, **sample.extra, return_pooled=True, return_all_degrees=True)
    for degree, x in pooled.items():
        assert x.shape == (batch, model.fiber_out[degree], 2 * degree + 1)
        assert x.isfinite().all()
    model.zero_grad()
    loss = squares(out)
    if loss.requires_grad:
        loss.backward()
        for tensor in (sample.coors, *model.parameters()):
            assert tensor.grad is None or tensor.grad.isfinite().all()


@pytest.mark.parametrize("size", [(1, 0), (0, 3), (0, 0), (1, 1), (2, 1), (1, 2), (3, 0)])
@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("kind", mostly_slow(KINDS, "l2", "mlp", "l2-linear-heads", "mlp-adjacency", "l2-reversible"))
def test_few_points(kind, attend_self, size):
    model = build(**{**KINDS[kind], "attend_self": attend_self})
    assert_finite(model, example(model, *size) if min(size) > 2 else few(model, *size))


def few(model, batch: int, points: int) -> Example:
    """Cut from something larger."""
    whole = example(model, 3, 4)

    def cut(x: torch.Tensor, pairs: bool) -> torch.Tensor:
        x = x[:batch, :points]
        return (x[:, :, :points] if pairs else x).clone()

    inputs = over_inputs(lambda x: cut(x, False), whole.inputs)
    extra = {name: x[:batch] if name == "condition" else cut(x, True) for name, x in whole.extra.items()}
    return Example(inputs, cut(whole.coors, False), extra)


@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_all_masked_rows(kind, attend_self):
    model = build(**{**KINDS[kind], "attend_self": attend_self})
    for mask in ([[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 0]]):
        sample = few(model, 2, 3)
        sample.extra["mask"] = torch.tensor(mask).bool()
        assert_finite(model, sample)


@pytest.fixture(scope="module")
def models():
    return {
        (kind, attend_self): build(**{**KINDS[kind], "attend_self": attend_self, "num_neighbors": 2})
        for kind in ("l2", "mlp", "mlp-adjacency", "l2-radius")
        for attend_self in (True, False)
    }


@settings(max_examples=25)
@given(data=st.data())
def test_degenerate_geometry(models, data):
    """Points on top of each other, on a line, on a lattice, tiny and huge, masked at will."""
    key = data.draw(st.sampled_from(sorted(models)))
    batch, points = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 5))
    sample = example(models[key], batch, max(points, 3))
    coordinate = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, -1e-12, 1e-160, 1e-300, 1e4, -1e6])
    count = sample.coors.numel()
    numbers = data.draw(st.lists(coordinate, min_size=count, max_size=count))
    sample.coors = torch.tensor(numbers, dtype=torch.float64).view(sample.coors.shape)
    bits = data.draw(st.lists(st.booleans(), min_size=count // 3, max_size=count // 3))
    sample.extra["mask"] = torch.tensor(bits).view(sample.coors.shape[:2])
    assert_finite(models[key], sample)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_deterministic(kind):
    model = build(**KINDS[kind])
    sample = example(model)
    first = sample.all_degrees(model)
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    second = sample.all_degrees(model)
    assert torch.get_rng_state().equal(state), "evaluation draws random numbers"
    for degree, x in first.items():
        assert second[degree].equal(x)


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_without_self_a_lone_point_is_still_something(kind):
    """Its own features go around the attention; nothing else comes in."""
    model = build(**KINDS[kind], attend_self=False)
    out = few(model, 2, 1).all_degrees(model)
    assert (out[0][0] - out[0][1]).abs().max() > 1e-3


def test_depth_zero():
    for reversible in (True, False):
        model = build(depth=0, reversible=reversible)
        assert_finite(model, example(model))


def test_one_degree_only():
    model = build(num_degrees=1, dim=4, output_degrees=2)
    sample = example(model)
    out = model(sample.inputs, sample.coors)
    assert out.type1 is None
    assert out.type0.shape == (2, 7, 4)
    assert_finite(model, sample)
