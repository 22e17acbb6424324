"""Promise 3: equivariance, of whole models and of every degree; coincident points; symmetric structures."""

import time
from collections.abc import Sequence

import pytest
import torch

from equiformer_pytorch import Equiformer
from equiformer_pytorch.testing import Role, assert_equivariant
from equiformer_pytorch.testing.equivariance import PROPER, TRANSFORMATIONS
from tests import tolerances
from tests.models import KINDS, Example, blocks, build, example, grad_of, squares
from tests.oracle import random_rotation

DTYPES = [torch.float32, torch.float64]


def check(model: Equiformer, sample: Example, dtype: torch.dtype, under: Sequence[str] = PROPER) -> None:
    call = {**sample.to(dtype).call(), "return_all_degrees": True}
    assert_equivariant(model, call, tolerance=tolerances.EQUIVARIANCE[dtype], under=under)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind, dtype):
    model = build(dtype, **KINDS[kind])
    check(model, example(model), dtype, TRANSFORMATIONS if "reflection" in kind else PROPER)


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_without_the_option_reflections_are_not_respected(kind):
    model = build(**KINDS[kind])
    with pytest.raises(AssertionError, match="degree 1 under reflection"):
        check(model, example(model), torch.float64, ("reflection",))


@pytest.mark.parametrize("attention", ["l2", "mlp"])
@pytest.mark.parametrize("degree", range(11))
def test_degrees_0_to_10(degree, attention):
    options = {"dim": 2, "num_degrees": degree + 1, "output_degrees": degree + 1, "depth": 1, "dim_head": 2}
    start = time.perf_counter()
    Equiformer(**options, l2_dist_attention=attention == "l2")
    assert time.perf_counter() - start < 1
    for dtype in DTYPES:
        model = build(dtype, **options, **KINDS[attention])
        check(model, example(model, batch=1, points=6), dtype)


AXES = torch.tensor([[0, 0, 0], [0, 1, 0], [0, -1.5, 0], [0, 2.2, 0], [1, 0, 0], [0.5, 0, -0.5]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_edges_on_and_near_the_polar_axis(kind, tilt, dtype):
    model = build(dtype, num_degrees=4, dim=4, output_degrees=4, **KINDS[kind])
    sample = example(model, batch=1, points=6)
    sample.coors[0] = AXES + tilt * torch.randn(6, 3, dtype=torch.float64)
    check(model, sample, dtype)


@pytest.mark.parametrize("kind", ["l2", "mlp", "l2-reversible", "mlp-adjacency"])
def test_coincident_points(kind):
    model = build(**KINDS[kind])
    sample = example(model, batch=1, points=6)
    sample.coors[0, 1] = sample.coors[0, 0]
    sample.coors[0, 4:] = sample.coors[0, 3]
    check(model, sample, torch.float64)
    sample.coors.requires_grad_()
    squares(sample.all_degrees(model)).backward()
    assert grad_of(sample.coors).isfinite().all()
    assert grad_of(sample.coors).abs().max() > 0


@pytest.mark.parametrize("kind", ["l2", "mlp"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", [0.0, 1e-30, 1e-200])
def test_a_coincident_pair_passes_only_invariants(kind, distance, dtype):
    """Two points at one place with invariant features: no direction, so no vector; the invariants still pass."""
    model = build(dtype, **KINDS[kind], attend_self=False)
    sample = example(model, batch=1, points=2)
    sample.coors[0, 1] = sample.coors[0, 0] = 0
    sample.coors[0, 1, 2] = distance
    sample = sample.to(dtype)
    if distance and sample.coors[0, 1, 2].square() > torch.finfo(dtype).tiny:
        return  # long enough to have a direction in this dtype
    out = sample.all_degrees(model)
    for degree in (1, 2):
        assert out[degree].abs().max() == 0
    other = Example(sample.inputs.clone(), sample.coors)
    other.inputs[0, 1] += 1
    assert (other.all_degrees(model)[0][0, 0] - out[0][0, 0]).abs().max() > 1e-4


def test_a_coincident_pair_passes_no_higher_degrees():
    """With vectors as input: what a coincident neighbour's vectors are does not matter."""
    model = build(depth=0, input_degrees=2, dim_in=(3, 2))
    sample = example(model, batch=1, points=2)
    sample.coors[0, 1] = sample.coors[0, 0]
    before = sample.all_degrees(model)
    sample.inputs[1][0, 1] += 1
    after = sample.all_degrees(model)
    for degree in before:
        assert after[degree][0, 0].equal(before[degree][0, 0])


OCTAHEDRON = torch.cat((torch.zeros(1, 3), torch.eye(3), -torch.eye(3))).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["l2", "mlp", "l2-reversible", "mlp-linear-heads", "l2-radius"])
def test_centre_of_an_octahedron_has_no_vector_in_any_layer(kind, turned, dtype):
    options = {**KINDS[kind], "depth": 5, "dim": (8, 8, 8), "attend_self": True, "num_neighbors": 6}
    model = build(dtype, noise=0.0, **options)
    coors = OCTAHEDRON * 1.3
    if turned:
        coors = coors @ random_rotation(3).T
    features = torch.randn(2, 5).double()[[0, 1, 1, 1, 1, 1, 1]]

    outputs = []
    for attention, feed_forward in blocks(model):
        attention.register_forward_hook(lambda module, _, out: outputs.append((module.fiber_out, out[0])))
        feed_forward.register_forward_hook(lambda module, _, out: outputs.append((module.fiber, out)))
    with torch.no_grad():
        last = Example(features[None], coors[None]).to(dtype).all_degrees(model)
    assert len(outputs) == 10
    for fiber, flat in outputs:
        for part in fiber.split(flat)[1:]:
            assert part[1:].abs().max() > 1e-2
            assert part[0].abs().max() <= tolerances.SYMMETRIC_ZERO[dtype] * flat.abs().max()
    for degree in (1, 2):
        assert last[degree][0, 0].abs().max() <= tolerances.SYMMETRIC_ZERO[dtype] * last[degree].abs().max()
        assert last[degree][0, 1:].abs().max() > 1e-2


def test_a_lone_point_has_no_vector():
    model = build(depth=4)
    out = example(model, batch=1, points=1).all_degrees(model)
    assert out[0].abs().max() > 1e-3
    for degree in (1, 2):
        assert out[degree].abs().max() == 0


@pytest.mark.parametrize("options", [{}, {"l2_dist_attention": False}, {"reduce_dim_out": True}])
def test_public_outputs_are_x_y_z(options):
    """The words of the interface: model(x, coors @ R).type1 == model(x, coors).type1 @ R."""
    model = build(**options)
    sample = example(model)
    matrix = random_rotation(7)
    plain = model(sample.inputs, sample.coors)
    moved = model(sample.inputs, sample.coors @ matrix)
    for got, wanted in ((moved.type0, plain.type0), (moved.type1, plain.type1 @ matrix)):
        assert (got - wanted).abs().max() <= tolerances.EQUIVARIANCE[torch.float64] * wanted.abs().max()


def test_attention_weights_are_invariant():
    model = build(num_neighbors=3)
    call = {**example(model).call(), "return_attn": True}
    names = [f"1.{layer}.{degree}" for layer in range(2) for degree in range(3)]
    invariants = {f"{name}.{part}": Role() for name in names for part in ("weights", "indices")}
    outputs = {"0.type0": None, "0.type1": None, **invariants}
    assert_equivariant(model, call, outputs=outputs, tolerance=1e-11, under=("rotation", "translation"))
