"""Attention: its formula; weights, gates, single-headed keys and values, global heads."""

import math

import pytest
import torch
import torch.nn.functional as F

from equiformer_pytorch.layers import joint, so2
from equiformer_pytorch.layers.attention import heads as heads_module
from equiformer_pytorch.layers.attention.taylor import TaylorLinearAttention, _taylor_features
from tests.layers.harness import graph_of
from tests.layers.test_layers import plain_so2
from tests.models import KINDS, Example, blocks, build, example
from tests.ops.test_softmax import by_slots
from tests.oracle import matrices_of, turned, turned_back


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
        assert open_gates.abs().max() > 1e-3
        without = build(**KINDS[kind], depth=1, gate_attn_head_outputs=False)
        kept = {name: value for name, value in model.state_dict().items() if "to_gates" not in name}
        without.load_state_dict(kept)
        blocks(without)[0][0].register_forward_hook(lambda _, args, out: caught.append(out[0]))
        sample.all_degrees(without)
    torch.testing.assert_close(caught[-1], open_gates)


def test_gates_are_per_head_of_every_degree():
    model = build(heads=(2, 3, 1), depth=1)
    assert blocks(model)[0][0].to_gates.out_features == 6


def plain_attention(layer, x: torch.Tensor, graph, mlp: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """By the formulas, from the parameters, one degree and head at a time; see :class:`Attention`."""
    degrees, channels, matrices = len(layer.heads), layer.channels, matrices_of(graph.rotation)
    envelope = graph.table.gather(graph.slots.envelope[:, int(layer.attend_self) :])[:, 0]
    normed = layer.norm(x)

    # Messages: what both ends add, in the frame of the edge, through the SO(2) map; the same of the point itself.
    ends = layer.conv.from_sender(normed)[graph.senders] + layer.conv.from_receiver(normed)[graph.receivers]
    max_order = min(len(layer.fiber), degrees) - 1
    aligned = turned(matrices, ends.unflatten(1, (len(layer.fiber) ** 2, -1)), max_order)
    besides, message = plain_so2(layer.conv.so2, aligned, graph.scalars)
    message = turned_back(matrices, message, degrees, max_order)
    besides, message = graph.spread(besides), graph.spread(message)
    if layer.attend_self:
        scalars, *higher = layer.to_own.fiber_out.split(layer.to_own(normed))
        own, of_own = scalars.split([channels, scalars.shape[2] - channels], dim=2)
        besides = torch.cat((of_own, besides), dim=1)
        message = torch.cat((torch.cat((own, *higher), dim=1)[:, None], message), dim=1)

    # Gates.
    z, gates = besides.split([layer.logit_invariants, (degrees - 1) * channels], dim=2)
    parts = list(message.split([2 * degree + 1 for degree in range(degrees)], dim=2))
    parts[0] = F.silu(parts[0])
    for degree in range(1, degrees):
        gate = gates[..., (degree - 1) * channels : degree * channels]
        parts[degree] = parts[degree] * gate.sigmoid()[:, :, None]

    if mlp and layer.to_query is not None:
        centred = z - z.mean(2, keepdim=True)
        over = centred / (1e-6 + centred.square().mean(2, keepdim=True)).sqrt()
        z = layer.to_query(normed[:, : layer.fiber[0]])[:, None] * over
    out, weights, first, seen = [], [], 0, 0
    of_heads = None if layer.to_gates is None else layer.to_gates(normed[:, : layer.fiber[0]]).sigmoid()
    queries = None if mlp else layer.to_query.fiber_out.split(layer.to_query(normed))
    for degree, part in enumerate(parts):
        combined = []
        for head in range(layer.heads[degree]):
            key = 0 if layer.key_heads[degree] == 1 else head
            if mlp:
                width = layer.to_logits[degree].shape[1]
                start = seen + key * width
                mine = z[..., start : start + width]
                smooth = layer.slope * mine + (1 - layer.slope) * mine * mine.sigmoid()
                logits = smooth @ layer.to_logits[degree][head]
            else:
                # −|q − a m|² without q², where a ⊙ q is what the map of the point gives.
                query = queries[degree][:, None, :, head * channels : (head + 1) * channels]
                logits = 2 * (query * part).sum((2, 3)) - (layer.metric[degree][key] * part).square().sum((2, 3))
                logits = logits / ((2 * degree + 1) * channels) ** 0.5
            alpha = by_slots(logits[..., None], graph, envelope, layer.attend_self)[..., 0]
            weights.append(alpha)
            gate = 1.0 if of_heads is None else of_heads[:, first + head, None, None]
            combined.append(gate * torch.einsum("ps,psoc->poc", alpha, part) @ layer.to_values[degree][key])
        out.append((torch.cat(combined, dim=2) @ layer.to_out[degree]).flatten(1))
        first += layer.heads[degree]
        seen += (1 if layer.key_heads[degree] == 1 else layer.heads[degree]) * (
            layer.to_logits[degree].shape[1] if mlp else 0
        )
    if layer.linear_attn is not None:
        out[0] = out[0] + layer.linear_attn(normed[:, : layer.fiber[0]], graph) @ layer.linear_attn_to_out
    return torch.cat(out, dim=1), weights


FORMS = {
    "plain": {},
    "single key": {"single_headed_kv": True},
    "no self": {"attend_self": False},
    "no gates": {"gate_attn_head_outputs": False},
    "uneven": {"heads": (3, 1, 2), "dim_head": (2, 5, 3), "dim": (6, 4, 5)},
    "equal degrees": {"dim": 4, "heads": (2, 2, 1)},
    "fewer degrees out": {"output_degrees": 1},
    "global heads": {"num_linear_attn_heads": 2, "linear_attn_dim_head": 3},
    "reflection": {"reflection_equivariant": True},
    "query": {"attn_query": True},
    "query, single key": {"attn_query": True, "single_headed_kv": True, "heads": (3, 1, 2)},
}


@pytest.mark.parametrize("arranged", ["narrow", "wide", "wide heads"])
@pytest.mark.parametrize(
    ("form", "mlp"), [(form, mlp) for form in FORMS for mlp in (False, True) if mlp or "attn_query" not in FORMS[form]]
)
def test_attention_is_its_formula(monkeypatch, form, mlp, arranged):
    """However the products are arranged."""
    if arranged == "wide":
        monkeypatch.setattr(joint, "NARROW", 0)
        monkeypatch.setattr(so2, "NARROW", 0)
    if arranged != "narrow":
        monkeypatch.setattr(heads_module, "NARROW", 0)
    model = build(depth=1, valid_radius=2.0, l2_dist_attention=not mlp, noise=0.5, **FORMS[form])
    layer = blocks(model)[0][0]
    graph = graph_of(model, example(model))
    x = torch.randn(14, model.dim.width, dtype=torch.float64)
    found, weights = layer(x, graph)
    wanted, of_heads = plain_attention(layer, x, graph, mlp)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    torch.testing.assert_close(torch.cat(weights, dim=1), torch.stack(of_heads, dim=1), rtol=0, atol=1e-12)
    layer.rearrange()
    torch.testing.assert_close(layer(x, graph)[0], wanted, rtol=0, atol=1e-11)
    matrices = [build(parameters) for build, parameters in layer.parts()]
    alone, none = layer(x, graph, matrices, with_weights=False)
    torch.testing.assert_close(alone, wanted, rtol=0, atol=1e-11)
    assert none == []


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
    model = build(num_linear_attn_heads=1)
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
