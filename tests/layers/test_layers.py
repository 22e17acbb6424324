"""Each layer by itself: equivariant, and what its formula says."""

import pytest
import torch

from equiformer_pytorch.layers.feedforward import FeedForward
from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.layers.gate import Gate
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm
from equiformer_pytorch.testing import assert_equivariant
from equiformer_pytorch.testing.equivariance import PROPER, TRANSFORMATIONS
from tests import tolerances
from tests.layers.harness import as_function, features, flatten, graph_of, unflatten
from tests.models import Example, blocks, build, example, relative, shake

FIBER = Fiber((5, 3, 4, 2))
TOLERANCE = tolerances.EQUIVARIANCE[torch.float64]


def dense(fiber: Fiber = FIBER) -> Example:
    return Example(features(fiber, 2, 6), torch.randn(2, 6, 3, dtype=torch.float64))


def test_fiber_layout():
    """Degree-major, order next, channel last; `split` gives views, `join` is its inverse."""
    assert FIBER.sizes == [5, 9, 20, 14]
    assert FIBER.width == 48
    x = torch.randn(7, 48)
    parts = FIBER.split(x)
    assert [tuple(p.shape) for p in parts] == [(7, 1, 5), (7, 3, 3), (7, 5, 4), (7, 7, 2)]
    assert all(p.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for p in parts)
    assert join(parts).equal(x)
    assert parts[1][2, 1, 0] == x[2, 5 + 3]
    kept = FIBER.keep(2)
    assert join(kept.split(x[:, : kept.width])).equal(x[:, :14])
    index = FIBER.channel_index()
    assert [p[0].unique(dim=0).shape[0] for p in FIBER.split(index.float()[None])] == [1, 1, 1, 1]
    assert index.max() == sum(FIBER) - 1
    assert flatten(unflatten(x[:6], FIBER, 2)).equal(x[:6])


def test_linear():
    layer = Linear(FIBER, Fiber((2, 6, 1)), bias=True).double()
    shake(layer)
    assert_equivariant(as_function(layer, Fiber((2, 6, 1))), dense().call(), tolerance=TOLERANCE, under=TRANSFORMATIONS)
    x = flatten(dense().inputs)
    for part, given, weight in zip(
        Fiber((2, 6, 1)).split(layer(x) - layer(0 * x)), FIBER.split(x), layer.weights, strict=False
    ):
        torch.testing.assert_close(part, given @ weight)
    zero = Linear(FIBER, FIBER, zero=True).double()
    assert zero(x).abs().max() == 0
    with pytest.raises(ValueError, match="degrees"):
        Linear(FIBER, Fiber((1,) * 5))


def test_norm():
    layer = shake(Norm(FIBER).double())
    assert_equivariant(as_function(layer, FIBER), dense().call(), tolerance=TOLERANCE, under=TRANSFORMATIONS)
    plain = Norm(FIBER).double()
    x = flatten(dense().inputs)
    out = FIBER.split(plain(x * 1e3))
    assert (out[0].square().mean((1, 2)) - 1).abs().max() < 1e-6
    shared = torch.stack([p.square().mean((1, 2)) for p in FIBER.split(x)]).mean(0).sqrt()
    for part, given in zip(out[1:], FIBER.split(x)[1:], strict=True):
        assert relative(part, given / shared[:, None, None]) < 1e-6
    assert relative(plain(1e3 * x), plain(1e4 * x)) < 1e-6
    assert plain(0 * x).abs().max() == 0


def test_norm_does_not_magnify_the_noise_of_one_degree():
    """Degree 1 at rounding level beside invariants of order one stays at rounding level."""
    layer = Norm(FIBER)
    sample = dense().inputs
    sample[1] = sample[1] * 1e-8
    out = FIBER.split(layer(flatten(sample).float()))
    assert out[1].abs().max() < 1e-6
    assert out[0].abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_statistics_do_not_overflow(dtype):
    out = Norm(FIBER).to(dtype)(flatten(dense().inputs).to(dtype) * 500)
    assert out.isfinite().all()
    assert 0.3 < FIBER.split(out.float())[0].square().mean() < 3


@pytest.mark.parametrize("norms", [False, True])
def test_feed_forward(norms):
    layer = shake(FeedForward(FIBER, include_htype_norms=norms, init_out_zero=False).double())
    assert_equivariant(as_function(layer, FIBER), dense().call(), tolerance=TOLERANCE, under=TRANSFORMATIONS)
    x = flatten(dense().inputs)
    louder = x.clone()
    louder[:, FIBER.sizes[0] :] *= 2
    # The invariants see the higher degrees through the norm of all, and otherwise only with `norms`.
    layer.norm = torch.nn.Identity()
    changed = (layer(louder) - layer(x))[:, : FIBER.sizes[0]].abs().max()
    assert (changed > 1e-3) if norms else (changed == 0)
    assert FeedForward(FIBER)(x.float()).abs().max() == 0


def test_gate():
    fiber = Fiber((3, 2, 2))
    gate = Gate(fiber)
    assert gate.fiber_in == (7, 2, 2)
    parts = gate.fiber_in.split(torch.randn(4, gate.fiber_in.width, dtype=torch.float64))
    out = gate(list(parts))
    torch.testing.assert_close(out[0], torch.nn.functional.silu(parts[0][..., :3]))
    torch.testing.assert_close(out[1], parts[1] * torch.sigmoid(parts[0][..., 3:5]))
    torch.testing.assert_close(out[2], parts[2] * torch.sigmoid(parts[0][..., 5:]))


@pytest.mark.parametrize("reflection", [False, True])
@pytest.mark.parametrize("which", ["embed", "l2", "mlp", "l2 without self", "mlp with global heads"])
def test_layers_that_look_at_neighbours(which, reflection):
    options = {
        "reflection_equivariant": reflection,
        "l2_dist_attention": "mlp" not in which,
        "attend_self": "without" not in which,
        "num_linear_attn_heads": 2 if "global" in which else 0,
        "dim": tuple(FIBER),
        "num_degrees": 4,
        "dim_in": (5,),
        "depth": 1,
    }
    if which == "embed":
        options.update(input_degrees=3, dim_in=(5, 3, 4))
        model = build(**options)
        sample = example(model, points=6)

        def function(inputs: dict[int, torch.Tensor], coors: torch.Tensor) -> dict[int, torch.Tensor]:
            graph = graph_of(model, Example(inputs, coors))
            return unflatten(model.embed(flatten(inputs), graph), model.embed.fiber_out, 2)
    else:
        model = build(**options)
        attention = blocks(model)[0][0]
        function, sample = as_function(attention, attention.fiber_out, model), dense()
    assert_equivariant(function, sample.call(), tolerance=TOLERANCE, under=TRANSFORMATIONS if reflection else PROPER)
    if not reflection:
        with pytest.raises(AssertionError, match="under reflection"):
            assert_equivariant(function, sample.call(), tolerance=TOLERANCE, under=("reflection",))


def test_attention_reads_every_degree_and_writes_every_degree():
    """With features of one degree only, all others come out: the SO(2) maps mix degrees, both ways."""
    for reflection in (False, True):
        model = build(dim=4, num_degrees=4, depth=1, output_degrees=4, reflection_equivariant=reflection)
        attention = blocks(model)[0][0]
        graph = graph_of(model, example(model))
        fiber = Fiber((4, 4, 4, 4))
        for degree in range(4):
            sample = {d: x * (d == degree) for d, x in features(fiber, 2, 7).items()}
            base = attention(flatten(sample), graph)[0]
            for out in fiber.split(base):
                assert out.abs().max() > 1e-4


def test_so2_maps_have_all_their_freedom():
    """2·min(l, l') + 1 independent maps for each pair of degrees, where one per pair is all that a tensor product
    with harmonics has: the message of an edge along y is any matrix that commutes with rotations about y."""
    from equiformer_pytorch.layers.so2 import SO2Linear

    layer = SO2Linear(3, 1, 3, 1, radial_dim=2, reflection_equivariant=False)
    assert [tuple(w.shape) for w in layer.weights] == [(1, 3, 3), (2, 2, 2), (2, 1, 1)]
    mirror = SO2Linear(3, 1, 3, 1, radial_dim=2, reflection_equivariant=True)
    assert [tuple(w.shape) for w in mirror.weights] == [(1, 3, 3), (1, 2, 2), (1, 1, 1)]


def test_so2_maps_commute_with_turns_about_y():
    from equiformer_pytorch.layers.so2 import SO2Linear

    layer = SO2Linear(4, 3, 4, 2, invariants=5, radial_dim=6, reflection_equivariant=False).double()
    embedding = torch.randn(8, 6, dtype=torch.float64)
    orders = [torch.randn(8, 2 if m else 1, (4 - m) * 3, dtype=torch.float64) for m in range(4)]

    def turn(parts, angle):
        turned = []
        for m, part in enumerate(parts):
            if m == 0:
                turned.append(part)
                continue
            minus, plus = part.unbind(1)
            c, s = torch.tensor(m * angle).cos(), torch.tensor(m * angle).sin()
            turned.append(torch.stack((c * minus + s * plus, c * plus - s * minus), dim=1))
        return turned

    out, invariants = layer(orders, embedding)
    out_turned, invariants_turned = layer(turn(orders, 0.7), embedding)
    torch.testing.assert_close(invariants_turned, invariants)
    for got, wanted in zip(out_turned, turn(out, 0.7), strict=True):
        torch.testing.assert_close(got, wanted)
    assert invariants.shape == (8, 5)
