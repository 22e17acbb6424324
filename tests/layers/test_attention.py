"""Attention: weights, gates, single-headed keys and values, global heads."""

import math

import pytest
import torch

from equiformer_pytorch.layers.attention.taylor import TaylorLinearAttention, _taylor_features
from tests.layers.harness import graph_of
from tests.models import KINDS, Example, blocks, build, example


def attention_of(model, sample):
    return model(sample.inputs, sample.coors, **sample.extra, return_attn=True)[1]


@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_weights_are_shares(kind, attend_self):
    """Without a radius the shares of the slots add up to one, in every degree and head; empty slots have none."""
    model = build(**KINDS[kind], attend_self=attend_self)
    sample = example(model)
    sample.extra["mask"] = torch.tensor([[1] * 7, [1] * 5 + [0] * 2]).bool()
    for layer in attention_of(model, sample):
        assert len(layer) == 3
        for weights, indices in layer:
            assert weights.shape == (2, 7, 2, 6 + attend_self)
            assert (weights >= 0).all()
            assert (weights.sum(-1)[sample.extra["mask"]] - 1).abs().max() < 1e-6
            assert weights.movedim(2, 3)[indices < 0].abs().sum() == 0
            if attend_self:
                assert indices[0, :, 0].tolist() == list(range(7))
            assert (indices[1, :5].sort(-1).values[:, -5 + (not attend_self) :] >= 0).all()
            assert (indices[1, 5:] == -1).all()


def test_l2_distance_is_invariant_to_the_order_of_neighbours_and_prefers_the_near_key():
    """With keys equal to the query the logit is at its largest: minus the squared distance, up to a constant."""
    model = build()
    attention = blocks(model)[0][0]
    graph = graph_of(model, example(model))
    x = torch.randn(14, model.dim.width, dtype=torch.float64)
    _, weights = attention(x, graph)
    assert all((w.sum(-1) - 1).abs().max() < 1e-9 for w in weights)
    assert any(w.std(-1).max() > 1e-3 for w in weights)


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_gates_let_a_head_attend_to_nothing(kind):
    model = build(**KINDS[kind], depth=1)
    sample = example(model)
    attention = blocks(model)[0][0]
    caught = []
    attention.register_forward_hook(lambda _, args, out: caught.append(out[0]))
    with torch.no_grad():
        attention.to_gates.weight.zero_()
        attention.to_gates.bias.fill_(-800)
        sample.all_degrees(model)
        assert caught[-1].abs().max() == 0
        attention.to_gates.bias.fill_(800)
        sample.all_degrees(model)
        open_gates = caught[-1]
        attention.to_gates = None
        sample.all_degrees(model)
        torch.testing.assert_close(caught[-1], open_gates)
    assert open_gates.abs().max() > 1e-3


def test_gates_are_per_head_of_every_degree():
    model = build(heads=(2, 3, 1), depth=1)
    assert blocks(model)[0][0].to_gates.out_features == 6


def global_heads(features: torch.Tensor, sizes: list[int], layer: TaylorLinearAttention) -> torch.Tensor:
    """By the formula, with the full matrix of weights of each structure."""
    outputs = []
    for x in features.split(sizes):
        heads = layer.heads
        q, k, v = (layer.to_qkv.weight @ x.T).T.chunk(3, dim=-1)
        out = []
        for query, key, value in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            s = query @ key.T / math.sqrt(query.shape[-1])
            weights = 1 + s + s**2 / 2
            out.append(weights @ value / weights.sum(-1, keepdim=True))
        outputs.append(torch.cat(out, -1) * torch.sigmoid(layer.to_gates(x)))
    return torch.cat(outputs)


@pytest.mark.parametrize("sizes", [[7, 7], [7, 3], [7, 0], [1, 1]])
def test_global_heads_are_their_formula(sizes):
    layer = TaylorLinearAttention(6, dim_head=4, heads=3).double()
    model = build()
    points = max(sizes)
    sample = example(model, points=7)
    mask = torch.arange(points) < torch.tensor(sizes)[:, None]
    sample = Example(sample.inputs[:, :points], sample.coors[:, :points], {"mask": mask})
    x = torch.randn(sum(sizes), 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x, graph_of(model, sample)), global_heads(x, sizes, layer))


def test_taylor_features():
    q, k = torch.randn(2, 5, 4, dtype=torch.float64)
    s = (q * k).sum(-1)
    torch.testing.assert_close((_taylor_features(q) * _taylor_features(k)).sum(-1), 1 + s + s**2 / 2)
    assert _taylor_features(q).shape == (5, 1 + 4 + 10)


def test_global_heads_see_beyond_the_radius_and_only_with_them():
    for heads in (0, 2):
        model = build(valid_radius=1.0, num_linear_attn_heads=heads)
        sample = example(model, batch=1, points=4)
        sample.coors += 10 * torch.arange(4)[:, None]
        before = sample.all_degrees(model)[0]
        sample.inputs[0, 3] += 1
        after = sample.all_degrees(model)[0]
        changed = (after[0, 0] - before[0, 0]).abs().max()
        assert (changed > 1e-6) if heads else (changed == 0)
