"""Promise 1: masked points, other structures of the batch and what lies beyond the radius change nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tolerances
from tests.models import KINDS, Example, blocks, build, example, grad_of, over_inputs, squares

BAD = [float("nan"), 1e30, float("-inf")]


def pad(whole: Example, mask: torch.Tensor, bad: float) -> Example:
    """What `mask` leaves out gets values that would show."""

    def spoil(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        keep = keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim))
        if x.dtype == torch.bool:
            return x | ~keep
        return torch.where(keep, x, torch.full_like(x, bad if x.is_floating_point() else -7))

    inputs = over_inputs(lambda x: spoil(x, mask), whole.inputs)
    pairs = mask[:, :, None] & mask[:, None]
    extra = {name: x if name == "condition" else spoil(x, pairs) for name, x in whole.extra.items()}
    return Example(inputs, spoil(whole.coors, mask), {**extra, "mask": mask})


def alone(whole: Example, structure: int, keep: torch.Tensor) -> Example:
    """One structure, without its masked points, without a mask."""

    def points(x: torch.Tensor) -> torch.Tensor:
        return x[structure : structure + 1, keep]

    extra = {name: points(x)[:, :, keep] for name, x in whole.extra.items() if name not in ("mask", "condition")}
    if "condition" in whole.extra:
        extra["condition"] = whole.extra["condition"][structure : structure + 1]
    return Example(over_inputs(points, whole.inputs), points(whole.coors), extra)


def assert_equals_one_by_one(model, whole: Example, mask: torch.Tensor, bad: float) -> None:
    batch = pad(whole, mask, bad)
    together = batch.all_degrees(model)
    pooled = model(batch.inputs, batch.coors, **batch.extra, return_pooled=True, return_all_degrees=True)
    for structure, keep in enumerate(mask):
        single = alone(whole, structure, keep)
        expected = single.all_degrees(model)
        for degree, x in together.items():
            assert x[structure, ~keep].abs().sum() == 0
            error = (x[structure, keep] - expected[degree][0]).abs()
            assert error.numel() == 0 or error.max() <= tolerances.ISOLATION
            mean = expected[degree][0].mean(0) if keep.any() else torch.zeros_like(x[0, 0])
            assert (pooled[degree][structure] - mean).abs().max() <= tolerances.ISOLATION


@pytest.mark.parametrize("kind", KINDS)
def test_padded_batch_equals_its_structures_one_by_one(kind):
    model = build(**KINDS[kind])
    whole = example(model, batch=4, points=6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]]).bool()
    for bad in BAD:
        assert_equals_one_by_one(model, whole, mask, bad)


@pytest.fixture(scope="module")
def by_kind():
    return {kind: build(**KINDS[kind]) for kind in ("l2-adjacency", "mlp-linear-heads", "mlp-bonds", "l2-radius")}


@settings(max_examples=15)
@given(data=st.data())
def test_any_mask_any_kind(by_kind, data):
    kind = data.draw(st.sampled_from(sorted(by_kind)))
    batch, points = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    rows = st.lists(st.booleans(), min_size=points, max_size=points)
    mask = torch.tensor(data.draw(st.lists(rows, min_size=batch, max_size=batch)))
    whole = example(by_kind[kind], batch, points, seed=data.draw(st.integers(0, 99)))
    assert_equals_one_by_one(by_kind[kind], whole, mask, data.draw(st.sampled_from(BAD)))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_points_have_zero_gradient_and_spoil_none(kind):
    model = build(**KINDS[kind])
    mask = torch.tensor([[1, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    batch = pad(example(model, points=6), mask, float("nan"))
    batch.coors.requires_grad_()
    squares(batch.all_degrees(model)).backward()
    slope = grad_of(batch.coors)
    assert slope[~mask].abs().sum() == 0
    assert slope[mask].isfinite().all()
    assert slope[0][mask[0]].abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_masks_of_numbers(dtype):
    model = build()
    whole = example(model)
    mask = torch.rand(2, 7) < 0.6
    expected = Example(whole.inputs, whole.coors, {"mask": mask}).all_degrees(model)
    for degree, x in Example(whole.inputs, whole.coors, {"mask": mask.to(dtype)}).all_degrees(model).items():
        assert x.equal(expected[degree])


@pytest.mark.parametrize("kind", KINDS)
def test_points_beyond_the_radius_change_nothing(kind):
    """Two clusters: new features, new shape of the far one, and the near one does not see it."""
    options = {**KINDS[kind], "valid_radius": 3.0}
    model = build(**options)
    before = example(model, batch=1, points=8, spread=0.4)
    far = torch.arange(8) >= 5
    before.coors[0, far] += torch.tensor([0.0, 40.0, 3.0], dtype=torch.float64)
    after = example(model, batch=1, points=8, spread=0.4)
    after.coors[0, far] = torch.randn(3, 3, dtype=torch.float64) * 0.2 - 25
    global_heads = bool(options.get("num_linear_attn_heads"))
    if not global_heads:
        changed = example(model, batch=1, points=8, seed=9)
        if isinstance(after.inputs, torch.Tensor):
            after.inputs[0, far] = changed.inputs[0, far]
        else:
            for degree, x in after.inputs.items():
                x[0, far] = changed.inputs[degree][0, far]
    else:
        # Global heads do see the features of all points, but where a lone point lies is nothing to them.
        for which in (before, after):
            which.coors[0, far] = which.coors[0, far] * torch.tensor([[1.0], [9.0], [-9.0]]).double()
    expected = before.all_degrees(model)
    for degree, x in after.all_degrees(model).items():
        assert (x[0, ~far] - expected[degree][0, ~far]).abs().max() <= tolerances.ISOLATION


@pytest.mark.parametrize("kind", ["l2", "mlp", "l2-adjacency"])
def test_radius_is_the_same_in_every_degree(kind):
    """One layer, one far neighbour: its features of each degree have no gradient in any output."""
    model = build(**{**KINDS[kind], "valid_radius": 2.0, "depth": 1, "input_degrees": 3, "dim_in": (3, 2, 2)})
    sample = example(model, batch=1, points=4, spread=0.3)
    sample.coors[0, 3] += 10
    for x in sample.inputs.values():
        x.requires_grad_()
    out = sample.all_degrees(model)
    for degree, y in out.items():
        gradients = torch.autograd.grad(y[0, :3].square().sum(), list(sample.inputs.values()), retain_graph=True)
        for gradient in gradients:
            assert gradient[0, 3].abs().max() == 0, degree
            assert gradient[0, :3].abs().max() > 0, degree


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_empty_slots_weigh_nothing_however_sharp_the_attention(kind, dtype):
    """Points with fewer neighbours than others have empty slots; logits of ±1000 do not bring them to life."""
    model = build(**KINDS[kind], valid_radius=1.5, attend_self=False)
    with torch.no_grad():
        for attention, _ in blocks(model):
            for weight in attention.metric if kind == "l2" else attention.to_logits:
                weight *= 30 if dtype in (torch.float32, torch.float64) else 3
    model.to(dtype)
    whole = example(model, batch=3, points=6).to(dtype)
    _, attn = model(whole.inputs, whole.coors, return_attn=True)
    filled = attn[0][0].indices >= 0
    assert not filled.all()
    for layer in attn:
        for weights, _ in layer:
            total = weights.double().sum(-1)
            assert weights.movedim(2, 3)[~filled].abs().max() == 0
            lowest = total[filled.any(-1)].min().item()
            assert lowest > 0, "an empty slot takes what belongs to a neighbour"
    single = [alone(whole, s, torch.ones(6, dtype=torch.bool)).all_degrees(model) for s in range(3)]
    for degree, x in whole.all_degrees(model).items():
        for s in range(3):
            assert (x[s] - single[s][degree][0]).abs().max() <= tolerances.ISOLATION_BY_DTYPE[dtype]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kind", ["l2", "mlp", "mlp-linear-heads", "l2-reversible"])
def test_broken_features_of_one_structure_do_not_reach_another(kind, value):
    """Points whose features have become NaN, in a structure of another size of the same batch."""
    model = build(**KINDS[kind])
    whole = example(model, batch=2, points=6)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    whole.inputs[0] = value
    together = Example(whole.inputs, whole.coors, {"mask": mask}).all_degrees(model)
    single = alone(whole, 1, mask[1]).all_degrees(model)
    for degree, x in together.items():
        assert (x[1, :4] - single[degree][0]).abs().max() <= tolerances.ISOLATION


@pytest.mark.parametrize("attention", [True, False])
def test_nan_features_do_not_reach_lone_points_of_other_structures(attention):
    """Not even one without neighbours, whose row of the table is all padding."""
    model = build(valid_radius=2.0, l2_dist_attention=attention)
    sample = example(model, batch=2, points=4)
    coors = sample.coors.clone()
    coors[0, 3] += 100  # the last point of the first structure
    expected = model(sample.inputs, coors).type0[0]
    features = sample.inputs.clone()
    features[1] = torch.nan
    out = model(features, coors).type0[0]
    assert (out - expected).abs().max() < tolerances.ISOLATION
