"""Every argument of the constructor has its meaning."""

import inspect
import math
import warnings
from typing import Any

import pytest
import torch

from equiformer_pytorch import Equiformer
from equiformer_pytorch.models.equiformer import L2DistAttention, MLPAttention
from tests.models import SMALL, Example, blocks, build, example

# The table of the interface: argument and default. New arguments may follow, never change these.
DEFAULTS = {
    "dim_in": None,
    "num_degrees": 2,
    "input_degrees": 1,
    "heads": 8,
    "dim_head": 24,
    "depth": 2,
    "valid_radius": 1e5,
    "radial_basis": "log",
    "num_neighbors": math.inf,
    "reduce_dim_out": False,
    "radial_hidden_dim": 64,
    "num_tokens": None,
    "num_positions": None,
    "num_edge_tokens": None,
    "edge_dim": None,
    "attend_self": True,
    "linear_out": True,
    "embedding_grad_frac": 0.5,
    "single_headed_kv": False,
    "ff_include_htype_norms": False,
    "l2_dist_attention": True,
    "reversible": False,
    "attend_sparse_neighbors": False,
    "gate_attn_head_outputs": True,
    "num_adj_degrees_embed": None,
    "adj_dim": 0,
    "max_sparse_neighbors": math.inf,
    "num_linear_attn_heads": 0,
    "linear_attn_dim_head": 8,
    "init_out_zero": True,
    "attn_leakyrelu_slope": 0.1,
    "attn_hidden_dim_mult": 4,
    "reflection_equivariant": False,
    "output_degrees": 2,
}


def size(**options) -> int:
    return sum(p.numel() for p in build(**options).parameters())


def shapes(model: Equiformer, **extra) -> tuple:
    sample = example(model)
    type0, type1 = model(sample.inputs, sample.coors, **sample.extra, **extra)
    return tuple(type0.shape), None if type1 is None else tuple(type1.shape)


def neighbours_of(model: Equiformer, sample: Example) -> torch.Tensor:
    _, attn = model(sample.inputs, sample.coors, **sample.extra, return_attn=True)
    return attn[0][0].indices


def test_names_and_defaults():
    parameters = inspect.signature(Equiformer.__init__).parameters
    for name, default in DEFAULTS.items():
        assert parameters[name].default == default, name
    assert parameters["dim"].default is inspect.Parameter.empty
    assert all(p.kind == p.KEYWORD_ONLY for name, p in parameters.items() if name != "self")


@pytest.mark.parametrize("dim", [4, (4, 4), [4, 4], (2, 5), (5, 2), (1, 7)])
def test_dim(dim):
    model = build(dim=dim, num_degrees=2, output_degrees=2)
    channels = (dim, dim) if isinstance(dim, int) else tuple(dim)
    assert shapes(model) == ((2, 7, channels[0]), (2, 7, channels[1], 3))


def test_dim_in():
    assert tuple(build(dim_in=3).dim_in) == (3,)
    assert tuple(Equiformer(dim=(6, 4)).dim_in) == (6,)
    assert tuple(Equiformer(dim=(6, 4), input_degrees=2).dim_in) == (6, 4)
    model = build(dim_in=(3, 2, 4), input_degrees=3, num_degrees=2, dim=(5, 4), output_degrees=2)
    assert shapes(model) == ((2, 7, 5), (2, 7, 4, 3))


def test_input_degrees():
    """Vectors and matrices that come in are used."""
    model = build(input_degrees=3, dim_in=(3, 2, 2))
    sample = example(model)
    before = sample.all_degrees(model)
    for degree in range(3):
        changed = {d: x + (d == degree) for d, x in sample.inputs.items()}
        assert (Example(changed, sample.coors).all_degrees(model)[0] - before[0]).abs().max() > 1e-4


def test_heads_and_dim_head():
    for heads, dim_head in ((3, 2), ((1, 2, 3), (4, 3, 2)), ([2, 2, 2], [5, 5, 5])):
        for attention in (True, False):
            model = build(heads=heads, dim_head=dim_head, l2_dist_attention=attention)
            sample = example(model)
            _, attn = model(sample.inputs, sample.coors, return_attn=True)
            wanted = (heads,) * 3 if isinstance(heads, int) else tuple(heads)
            assert tuple(w.weights.shape[2] for w in attn[0]) == wanted
    assert size(dim_head=4) < size(dim_head=8)
    assert size(heads=2) < size(heads=4)


def test_depth():
    for depth in (0, 1, 3):
        model = build(depth=depth)
        assert len(model.layers.blocks) == depth
        sample = example(model)
        assert len(model(sample.inputs, sample.coors, return_attn=True)[1]) == depth


def test_valid_radius_and_num_neighbors():
    every: tuple[dict[str, Any], ...]
    every = ({"valid_radius": 1.5}, {"num_neighbors": 3}, {"valid_radius": 1.5, "num_neighbors": 2}, {})
    for options in every:
        model = build(**options, attend_self=False)
        sample = example(model, batch=1)
        distance = torch.cdist(sample.coors, sample.coors)[0]
        for i, row in enumerate(neighbours_of(model, sample)[0]):
            near = sorted((distance[i, j].item(), j) for j in range(7) if j != i)
            near = [j for d, j in near if d <= options.get("valid_radius", math.inf)]
            count = options.get("num_neighbors", 7)
            assert sorted(j for j in row.tolist() if j >= 0) == sorted(near[:count])


@pytest.mark.parametrize("count", [1, 3, 100, math.inf, 3.0])
def test_num_neighbors_is_clamped(count):
    model = build(num_neighbors=count)
    assert neighbours_of(model, example(model)).shape[-1] == 1 + min(count, 6)


@pytest.mark.parametrize("linear_out", [True, False])
def test_reduce_dim_out_and_linear_out(linear_out):
    model = build(reduce_dim_out=True, linear_out=linear_out)
    assert shapes(model) == ((2, 7), (2, 7, 3))
    assert shapes(model, return_pooled=True) == ((2,), (2, 3))
    # Linear: the output projection adds up; a feed-forward does not.
    caught = []
    handle = model.norm.register_forward_hook(lambda _, args, out: caught.append(out))
    example(model).all_degrees(model)
    handle.remove()
    x = caught[0]
    assert model.to_out is not None
    zero = model.to_out(0 * x)
    bent = (model.to_out(2 * x) - 2 * model.to_out(x) + zero).abs().max()
    assert (bent < 1e-12) if linear_out else (bent > 1e-3)


def test_radial_basis():
    even = build(radial_basis="even", valid_radius=3.0)
    assert even.radial.first.in_features == 32
    assert build(valid_radius=3.0).radial.first.in_features == 25  # as models of 1.2 have it
    assert even.radial.basis(torch.tensor([3.0]))[0, -1] == 1
    with pytest.raises(ValueError, match="radial_basis = 'even' needs valid_radius"):
        build(radial_basis="even")
    with pytest.raises(ValueError, match="radial_basis must be one of 'log', 'even'"):
        build(radial_basis="bessel", valid_radius=3.0)


def test_radial_hidden_dim():
    for width in (5, 9):
        assert build(radial_hidden_dim=width).radial.first.out_features == width


def test_tokens_and_positions():
    model = build(num_tokens=6, num_positions=9)
    sample = example(model)
    before = sample.all_degrees(model)[0]
    tokens = (sample.inputs + 1) % 6
    assert (Example(tokens, sample.coors).all_degrees(model)[0] - before).abs().max() > 1e-4
    # All the same, but for the position: only with positions are they told apart.
    for positions, apart in ((9, True), (None, False)):
        model = build(num_tokens=6, num_positions=positions)
        out = model(torch.zeros(1, 4).long(), torch.zeros(1, 4, 3).double()).type0
        assert bool((out.std(1) > 1e-4).any()) == apart


def test_positions_of_float_features():
    model = build(num_positions=7)
    same = torch.ones(1, 7, 5).double()
    assert model(same, torch.zeros(1, 7, 3).double()).type0.std(1).max() > 1e-4


def test_positions_count_masked_columns():
    """The position is the place in the sequence, also where points before it are masked."""
    model = build(num_positions=7)
    sample = example(model, batch=1)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1]]).bool()
    out = model(sample.inputs, sample.coors, mask).type0[0, 1]
    with torch.no_grad():
        assert model.point_features.positions is not None
        model.point_features.positions.weight[0] += 1
        model.point_features.positions.weight[3] += 1
    assert model(sample.inputs, sample.coors, mask).type0[0, 1].equal(out)


@pytest.mark.parametrize("options", [{"edge_dim": 3}, {"edge_dim": 3, "num_edge_tokens": 4}])
@pytest.mark.parametrize("attention", [True, False])
def test_edges_are_used_in_every_layer(options, attention):
    model = build(**options, l2_dist_attention=attention)
    sample = example(model)
    before = sample.all_degrees(model)[0]
    edges = sample.extra["edges"]
    changed = (edges + 1) % 4 if "num_edge_tokens" in options else edges + 1
    assert (Example(sample.inputs, sample.coors, {"edges": changed}).all_degrees(model)[0] - before).abs().max() > 1e-4


def test_attend_self():
    for attend_self in (True, False):
        model = build(attend_self=attend_self)
        indices = neighbours_of(model, example(model, batch=1))[0]
        itself = (indices == torch.arange(7)[:, None]).any(-1)
        assert bool(itself.all()) == attend_self
        assert bool(itself.any()) == attend_self
        # A lone point takes in nothing but itself.
        caught = []
        blocks(model)[0][0].register_forward_hook(lambda _, args, out, caught=caught: caught.append(out[0]))
        sample = example(model, batch=1, points=3)
        model(sample.inputs[:, :1], sample.coors[:, :1])
        assert bool((caught[0] != 0).any()) == attend_self
        _, attn = model(sample.inputs[:, :1], sample.coors[:, :1], return_attn=True)
        assert attn[0][0].weights.shape[-1] == attend_self


@pytest.mark.parametrize("frac", [0.0, 0.25, 0.5, 1.0])
def test_embedding_grad_frac(frac):
    """The share of the gradient that reaches the embeddings; values and other gradients do not depend on it."""
    models = [build(num_tokens=4, num_positions=7, edge_dim=2, embedding_grad_frac=f) for f in (frac, 1)]
    sample = example(models[0])
    sample.coors.requires_grad_()
    outputs, grads = [], []
    for model in models:
        out = model(sample.inputs, sample.coors, **sample.extra)
        outputs.append(out.type0)
        names, parameters = zip(*model.named_parameters(), strict=True)
        loss = out.type0.square().sum()
        grads.append(dict(zip([*names, "coors"], torch.autograd.grad(loss, [*parameters, sample.coors]), strict=True)))
    torch.testing.assert_close(outputs[0], outputs[1])
    for name, full in grads[1].items():
        share = frac if name.startswith("point_features.") else 1
        torch.testing.assert_close(grads[0][name], share * full, rtol=1e-9, atol=1e-12 * full.abs().max().item())


def test_float_features_are_not_softened():
    grads = []
    for frac in (0.1, 1):
        model = build(embedding_grad_frac=frac)
        sample = example(model)
        sample.inputs.requires_grad_()
        grads.append(torch.autograd.grad(model(sample.inputs, sample.coors).type0.square().sum(), sample.inputs)[0])
    assert grads[0].equal(grads[1])


@pytest.mark.parametrize("attention", [True, False])
def test_single_headed_kv(attention):
    """One key/value head: fewer parameters, values the same for all heads, queries (weights) still apart."""
    options = {"l2_dist_attention": attention, "heads": 4, "depth": 1}
    assert size(**options, single_headed_kv=True) < size(**options)
    model = build(**options, single_headed_kv=True)
    assert all(len(v) == 1 for v in blocks(model)[0][0].to_values)
    assert all(len(v) == 4 for v in blocks(build(**options))[0][0].to_values)
    sample = example(model)
    _, attn = model(sample.inputs, sample.coors, return_attn=True)
    weights = attn[0][0].weights
    assert (weights[:, :, 0] - weights[:, :, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("norms", [True, False])
def test_ff_include_htype_norms(norms):
    more = size(ff_include_htype_norms=True) - size(ff_include_htype_norms=False)
    assert more > 0
    assert blocks(build(ff_include_htype_norms=norms))[0][1].include_htype_norms == norms


def test_queries_are_of_attention_by_mlp():
    with pytest.raises(ValueError, match="attn_query goes with l2_dist_attention = False"):
        build(attn_query=True)
    with pytest.raises(TypeError, match="attn_query"):
        build(l2_dist_attention=False, attn_query=1)


def test_l2_dist_attention_chooses_the_attention():
    assert isinstance(blocks(build())[0][0], L2DistAttention)
    assert isinstance(blocks(build(l2_dist_attention=False))[0][0], MLPAttention)


@pytest.mark.parametrize("attention", [True, False])
def test_dot_product_attention_is_the_old_name(attention):
    with pytest.warns(DeprecationWarning, match="l2_dist_attention"):
        model = Equiformer(**SMALL, dot_product_attention=attention)
    assert isinstance(blocks(model)[0][0], L2DistAttention if attention else MLPAttention)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Equiformer(**SMALL, l2_dist_attention=attention)


@pytest.mark.parametrize("attention", [True, False])
def test_unknown_arguments_are_named_whatever_the_attention(attention):
    with pytest.raises(TypeError, match="num_neighbours"):
        build(l2_dist_attention=attention, num_neighbours=3)


def test_reversible_is_another_recurrence_of_the_same_parameters():
    plain, reversible = build(), build(reversible=True)
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in reversible.named_parameters()}
    sample = example(plain)
    assert (sample.all_degrees(plain)[0] - sample.all_degrees(reversible)[0]).abs().max() > 1e-4


@pytest.mark.parametrize("gates", [True, False])
def test_gate_attn_head_outputs(gates):
    model = build(gate_attn_head_outputs=gates)
    assert (blocks(model)[0][0].to_gates is not None) == gates
    assert (size(gate_attn_head_outputs=True) > size(gate_attn_head_outputs=False)) is True


def test_linear_attention_heads():
    for attention in (True, False):
        options = {"l2_dist_attention": attention}
        sizes = [size(**options, num_linear_attn_heads=h, linear_attn_dim_head=d) for h, d in ((0, 8), (1, 4), (2, 4))]
        assert sizes[0] < sizes[1] < sizes[2]
        assert size(**options, num_linear_attn_heads=1) > sizes[1]


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_init_out_zero(attention, zero):
    """With zero-initialised branches an untrained block is the identity."""
    torch.manual_seed(0)
    model = Equiformer(
        **SMALL, init_out_zero=zero, l2_dist_attention=attention, num_linear_attn_heads=1, reduce_dim_out=True
    ).double()
    caught = []
    for block in blocks(model):
        block[0].register_forward_hook(lambda _, args, out: caught.append(out[0]))
        block[1].register_forward_hook(lambda _, args, out: caught.append(out))
    out = example(model).all_degrees(model)
    assert len(caught) == 4
    for branch in caught:
        assert bool(branch.abs().max() == 0) == zero
    assert out[0].abs().max() > 1e-3
    assert out[1].abs().max() > 1e-4


def test_attn_leakyrelu_slope_and_hidden_dim_mult():
    options: dict[str, Any] = {"l2_dist_attention": False}
    assert size(**options, attn_hidden_dim_mult=2) < size(**options, attn_hidden_dim_mult=4)
    one, two = (build(**options, attn_leakyrelu_slope=s) for s in (0.1, 0.9))
    sample = example(one)
    assert (sample.all_degrees(one)[0] - sample.all_degrees(two)[0]).abs().max() > 1e-5


@pytest.mark.parametrize("degrees", [1, 2, 3, 5])
def test_output_degrees(degrees):
    model = build(output_degrees=degrees)
    sample = example(model)
    out = sample.all_degrees(model)
    assert list(out) == list(range(min(degrees, 3)))
    assert all(x.shape == (2, 7, SMALL["dim"][d], 2 * d + 1) for d, x in out.items())
    result = model(sample.inputs, sample.coors)
    assert (result.type1 is None) == (degrees == 1)
