"""Each layer by itself: equivariant, and what its formula says."""

import pytest
import torch

from equiformer_pytorch.layers import joint
from equiformer_pytorch.layers.embedding import NeighbourEmbedding
from equiformer_pytorch.layers.feedforward import FeedForward
from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm, normalised
from equiformer_pytorch.layers.so2 import SO2Linear
from equiformer_pytorch.testing import assert_equivariant, assert_gradients
from equiformer_pytorch.testing.equivariance import PROPER, TRANSFORMATIONS
from tests import tolerances
from tests.layers.harness import as_function, features, flatten, graph_of, unflatten
from tests.models import Example, blocks, build, example, relative, shake
from tests.ops.graphs import edge_graph, normal
from tests.oracle import matrices_of, order_major, turned, turned_back

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
    layer = shake(Linear(FIBER, Fiber((2, 6, 1)), bias=True).double())
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


def test_norm_has_derivatives_of_every_order():
    """Its backward pass is its own; also of the gain, and spread out by a layer."""
    layer = shake(Norm(Fiber((2, 1, 2))).double())

    def function(x: torch.Tensor, gain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return layer(x), layer(x, layer.spread_gain([gain])[0])

    x = normal(3, layer.fiber.width)
    assert_gradients(function, {"x": x, "gain": normal(5)})
    slope = leaf = x.clone().requires_grad_()
    third, plain = [], torch.cat(list(plain_norm(layer, leaf)), dim=1)
    for value in (layer(leaf), plain):
        loss = value.sin().sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            loss = slope.square().sum()
        third.append(slope)
    torch.testing.assert_close(*third)
    per_sample = torch.func.vmap(torch.func.grad(lambda x: layer(x[None]).sin().sum()))(x)
    (wanted,) = torch.autograd.grad(layer(leaf).sin().sum(), leaf)
    torch.testing.assert_close(per_sample, wanted)


def plain_norm(layer: Norm, x: torch.Tensor) -> list[torch.Tensor]:
    """Degree by degree: 0 by its own mean square, the others by the mean of all, times their gains."""
    parts, gains = layer.fiber.split(x), layer.gain.split(list(layer.fiber))
    own = [part.square().mean((1, 2)) for part in parts]
    shared = torch.stack(own).mean(0)
    scales = [own[0], *[shared] * (len(parts) - 1)]
    return [
        (part * gain / (scale + layer.eps).sqrt()[:, None, None]).flatten(1)
        for part, gain, scale in zip(parts, gains, scales, strict=True)
    ]


def test_norm_is_its_formula():
    layer = shake(Norm(FIBER).double())
    x = flatten(dense().inputs)
    torch.testing.assert_close(layer(x), torch.cat(plain_norm(layer, x), dim=1))


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


@pytest.fixture(params=["narrow", "wide"])
def widths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Layers of this width arrange their products as narrow, or as wide ones do."""
    if request.param == "wide":
        monkeypatch.setattr(joint, "NARROW", 0)
    return request.param


@pytest.mark.parametrize("norms", [False, True])
def test_feed_forward(norms, widths):
    layer = shake(FeedForward(FIBER, include_htype_norms=norms, init_out_zero=False).double())
    assert layer.narrow == (widths == "narrow")
    assert_equivariant(as_function(layer, FIBER), dense().call(), tolerance=TOLERANCE, under=TRANSFORMATIONS)
    x = flatten(dense().inputs)
    louder = x.clone()
    louder[:, FIBER.sizes[0] :] *= 2
    # The invariants see the higher degrees through the norm of all, and otherwise only with `norms`.
    layer.norm.forward = lambda x, gain=None: x
    changed = (layer(louder) - layer(x))[:, : FIBER.sizes[0]].abs().max()
    assert (changed > 1e-3) if norms else (changed == 0)
    assert FeedForward(FIBER)(x.float()).abs().max() == 0


@pytest.mark.parametrize("fiber", [(3, 2, 2), (4,), (2, 2, 2), (1, 3, 3, 2)])
@pytest.mark.parametrize("fiber_out", [None, "fewer"])
@pytest.mark.parametrize("norms", [False, True])
def test_feed_forward_is_its_formula(norms, fiber_out, fiber, widths):
    """Linear, gate, linear: SiLU of degree 0, the others times the sigmoids of channels beside degree 0."""
    fiber = Fiber(fiber)
    fiber_out = None if fiber_out is None else Fiber((2, 3)[: len(fiber)])
    layer = FeedForward(fiber, fiber_out, mult=2, include_htype_norms=norms, init_out_zero=False).double()
    shake(layer, 0.5)
    x = normal(4, fiber.width)
    normed = layer.norm(x)
    if norms:
        higher = [(part.square().sum(1) + 0.01**2).sqrt() - 0.01 for part in fiber.split(normed)[1:]]
        normed = torch.cat((normed[:, : fiber[0]], *higher, normed[:, fiber[0] :]), dim=1)
    invariants, *parts = layer.project_in.fiber_out.split(layer.project_in(normed))
    hidden = [2 * channels for channels in fiber]
    values, *gates = invariants.split(hidden, dim=2)
    gated = [part * gate.sigmoid() for part, gate in zip(parts, gates, strict=True)]
    wanted = layer.project_out(join([torch.nn.functional.silu(values), *gated]))
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)


def test_feed_forward_has_gradients_of_two_orders(widths):
    layer = shake(FeedForward(Fiber((2, 1, 1)), mult=2, include_htype_norms=True, init_out_zero=False).double())
    assert_gradients(layer, {"x": normal(2, 10)})
    assert_gradients(layer, {"x": normal(2, 10)}, parameters=True, fast=True)


@pytest.mark.parametrize("fibers", [((3, 2, 2), (4, 3, 3)), ((4,), (2, 3)), ((2, 2, 2), (2, 2)), ((3, 2), (5,))])
def test_embedding_is_its_formula(fibers, widths):
    r"""A x + B · Σ u m / (1 + Σ u), where the message is a scaled SO(2) product of what both ends add."""
    fiber_in, fiber_out = (Fiber(fiber) for fiber in fibers)
    layer = NeighbourEmbedding(fiber_in, fiber_out, radial_dim=3, reflection_equivariant=False).double()
    shake(layer, 0.3)
    graph = edge_graph([3, 0, 2, 1], 3, table=True)
    x = normal(4, fiber_in.width)
    matrices = matrices_of(graph.rotation)
    ends = layer.conv.from_sender(x)[graph.senders] + layer.conv.from_receiver(x)[graph.receivers]
    max_order = min(len(fiber_in), len(fiber_out)) - 1
    aligned = turned(matrices, ends.unflatten(1, (len(fiber_in) ** 2, -1)), max_order)
    _, message = plain_so2(layer.conv.so2, aligned, graph.scalars)
    message = turned_back(matrices, message, len(fiber_out), max_order).flatten(1)
    u = graph.table.gather(graph.slots.envelope[:, 1:])
    received = graph.sum_receivers(u * message) / (1 + graph.sum_receivers(u))
    own = layer.own(x)
    wanted = layer.to_out(received)
    wanted[:, : own.shape[1]] += own
    torch.testing.assert_close(layer(x, graph), wanted, rtol=0, atol=1e-11)


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
    layer = SO2Linear(3, 1, 3, 1, radial_dim=2, reflection_equivariant=False)
    assert [tuple(w.shape) for w in layer.weights] == [(1, 3, 3), (2, 2, 2), (2, 1, 1)]
    mirror = SO2Linear(3, 1, 3, 1, radial_dim=2, reflection_equivariant=True)
    assert [tuple(w.shape) for w in mirror.weights] == [(1, 3, 3), (1, 2, 2), (1, 1, 1)]


def plain_so2(layer: SO2Linear, x: torch.Tensor, scalars: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Order by order, with complex matrices: invariants, and the message before gates."""
    channels_in = x.shape[2]
    orders, row = [], 0
    invariants = None
    scales = layer.scale(scalars).split(layer.rows, dim=1)
    for m, (weight, scale, rows) in enumerate(zip(layer.weights, scales, layer.rows, strict=True)):
        count = rows // channels_in
        plus = x[:, row : row + count].flatten(1) * scale
        if m == 0:
            invariants, message = (plus @ weight[0]).split(
                [layer.invariants, weight.shape[2] - layer.invariants], dim=1
            )
            orders.append(message)
            row += count
            continue
        minus = x[:, row + count : row + 2 * count].flatten(1) * scale
        matrix = torch.complex(weight[0], weight[1] if len(weight) == 2 else torch.zeros_like(weight[0]))
        product = torch.complex(plus, minus) @ matrix
        orders += [product.real, product.imag]
        row += 2 * count
    assert row == x.shape[1]
    assert invariants is not None
    return invariants, torch.cat(orders, dim=1).unflatten(1, (-1, layer.channels_out))


@pytest.mark.parametrize("reflection", [False, True])
@pytest.mark.parametrize(("degrees_in", "degrees_out"), [(4, 4), (2, 4), (4, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("invariants", [0, 5])
def test_so2_maps_are_complex_matrices(invariants, degrees_in, degrees_out, reflection):
    layer = SO2Linear(
        degrees_in, 3, degrees_out, 2, invariants=invariants, radial_dim=6, reflection_equivariant=reflection
    ).double()
    shake(layer, 0.3)
    rows = order_major(degrees_in - 1, layer.max_order)
    x, scalars = normal(8, len(rows), 3), normal(8, 6, seed=1)
    for found, wanted in zip(layer(x, scalars), plain_so2(layer, x, scalars), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert layer(x, scalars)[1].shape == (8, len(order_major(degrees_out - 1, layer.max_order)), 2)


@pytest.mark.parametrize("narrow", [False, True])
def test_gates_of_so2_maps(narrow):
    """The last invariants are the gates of degrees 1 and up: SiLU of degree 0, the others times sigmoids."""
    layer = SO2Linear(3, 3, 3, 2, invariants=6, gates=4, radial_dim=6, reflection_equivariant=False).double()
    shake(layer, 0.3)
    x, scalars = normal(8, len(order_major(2, 2)), 3), normal(8, 6, seed=1)
    invariants, message = plain_so2(layer, x, scalars)
    if not narrow:
        for found, wanted in zip(layer(x, scalars), (invariants, message), strict=True):
            torch.testing.assert_close(found, wanted)
        return
    layer.gate()
    kept, gated = layer(x, scalars)
    torch.testing.assert_close(kept, invariants[:, :2])
    gates = torch.cat((message[:, 0], invariants[:, 2:]), dim=1).unflatten(1, (3, 2)).sigmoid()
    degrees = [degree for degree, _ in order_major(2, 2)]
    wanted = message * gates[:, degrees]
    wanted[:, 0] = torch.nn.functional.silu(message[:, 0])
    torch.testing.assert_close(gated, wanted)


def test_so2_maps_commute_with_turns_about_y():
    layer = SO2Linear(4, 3, 4, 2, invariants=5, radial_dim=6, reflection_equivariant=False).double()
    embedding = torch.randn(8, 6, dtype=torch.float64)
    rows = order_major(3, 3)
    x = torch.randn(8, len(rows), 3, dtype=torch.float64)

    def turn(x, angle):
        turned = torch.empty_like(x)
        for k, (degree, m) in enumerate(rows):
            c, s = torch.tensor(m * angle).cos(), torch.tensor(m * angle).sin()
            turned[:, k] = c * x[:, k] - s * x[:, rows.index((degree, -m))]
        return turned

    invariants, out = layer(x, embedding)
    invariants_turned, out_turned = layer(turn(x, 0.7), embedding)
    torch.testing.assert_close(invariants_turned, invariants)
    torch.testing.assert_close(out_turned, turn(out, 0.7))
    assert invariants.shape == (8, 5)
    assert (out_turned - out).abs().max() > 0.1


# ---- the norm of the logits' invariants


def test_invariants_are_normalised_by_the_formula():
    z = torch.randn(3, 4, 5, dtype=torch.float64)
    centred = z - z.mean(-1, keepdim=True)
    wanted = centred / (1e-6 + centred.square().mean(-1, keepdim=True)).sqrt()
    torch.testing.assert_close(normalised(z), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(normalised(z[..., :1]), z[..., :1])


def test_normalised_invariants_have_derivatives_also_where_all_are_zero():
    z = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(normalised, z)
    assert torch.autograd.gradgradcheck(normalised, z)
    zero = torch.zeros(2, 3, requires_grad=True)
    out = normalised(zero)
    (slope,) = torch.autograd.grad(out.sum(), zero)
    assert torch.equal(out, torch.zeros(2, 3))
    assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_halves_are_normalised(dtype):
    z = torch.tensor([[3e4, -3e4, 3e4, -3e4]], dtype=dtype)
    out = normalised(z)
    assert out.dtype == dtype
    torch.testing.assert_close(out, z.sign(), rtol=1e-2, atol=0)
