"""Attention weights, beside loops over receivers, edges and heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.graph.edges import EdgeGraph, Slots
from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.ops.softmax import edge_softmax, slot_softmax
from equiformer_pytorch.testing import assert_gradients
from tests.layers.harness import graph_of
from tests.models import build, example, total
from tests.ops.graphs import SIZES, edge_graph, normal

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def slots_of(graph: EdgeGraph) -> int:
    return graph.laid_out()[1].envelope.shape[1]


def by_slots(logits: Tensor, graph: EdgeGraph, envelope: Tensor, attend_self: bool) -> Tensor:
    """u · u e^t / Σ u e^t with t = u (s − mean of s), in rows of any length; zero where there are no edges."""
    weights = torch.zeros_like(logits)
    for point in range(graph.count):
        u = envelope[graph.receivers == point]
        if attend_self:
            u = torch.cat((u.new_ones(1), u))
        for head in range(logits.shape[2]):
            s = logits[point, : len(u), head]
            t = u * (s - (u * s).sum() / (u.sum() + 0.01))
            terms = u * (t - t.max()).exp() if len(t) else t
            weights[point, : len(u), head] = u * terms / terms.sum().clamp(min=1e-300)
    return weights


def by_edges(logits: Tensor, graph: EdgeGraph, eps: float, kept: Tensor | None = None) -> Tensor:
    """u · u k e^s / (Σ u k e^s + ε), s counted from the largest, a constant."""
    weights = torch.zeros_like(logits)
    u = torch.ones(len(logits), dtype=logits.dtype) if graph.envelope is None else graph.envelope
    k = torch.ones_like(logits) if kept is None else kept
    for point in range(graph.count):
        edges = (graph.receivers == point).nonzero().flatten().tolist()
        for head in range(logits.shape[1]):
            largest = max((float(logits[e, head].detach()) for e in edges), default=0.0)
            terms = {e: u[e] * k[e, head] * (logits[e, head] - largest).exp() for e in edges}
            for e, term in terms.items():
                weights[e, head] = u[e] * term / (sum(terms.values()) + eps)
    return weights


@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_slots(name: str, attend_self: bool):
    graph = edge_graph(SIZES[name], table=True, attend_self=attend_self)
    logits = 3 * normal(graph.count, slots_of(graph), 2)
    assert graph.envelope is not None
    wanted = by_slots(logits, graph, graph.envelope, attend_self)
    weights, shares = slot_softmax(logits, graph.laid_out()[1])
    assert weights.shape == shares.shape == logits.shape
    torch.testing.assert_close(weights, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(shares * graph.laid_out()[1].envelope, wanted, rtol=0, atol=1e-12)
    gates = normal(graph.count, 2, seed=3).sigmoid()
    gated, same = slot_softmax(logits, graph.laid_out()[1], gates)
    torch.testing.assert_close(gated, wanted * gates[:, None], rtol=0, atol=1e-12)
    torch.testing.assert_close(same, shares, rtol=0, atol=0)


def test_shares_of_a_receiver_are_one():
    """Whatever the envelope, unless it is zero everywhere."""
    graph = edge_graph(SIZES["ragged"], table=True, attend_self=False)
    _, shares = slot_softmax(normal(graph.count, slots_of(graph), 2), graph.laid_out()[1])
    present = (graph.slots.envelope > 0).any(1)[:, 0]
    torch.testing.assert_close(shares[present].sum(1), torch.ones(3, 2, dtype=torch.float64))
    assert shares[present].masked_select(graph.slots.envelope[present] == 0).abs().max() == 0


@pytest.mark.parametrize("attend_self", [True, False])
def test_slots_of_a_model(attend_self: bool):
    """As :class:`Equiformer` makes them."""
    model = build(valid_radius=1.8, attend_self=attend_self)
    graph = graph_of(model, example(model))
    envelope = graph.table.gather(graph.slots.envelope[:, int(attend_self) :])[:, 0]
    assert envelope.min() < 0.1
    logits = 3 * normal(graph.count, slots_of(graph), 2)
    weights, _ = slot_softmax(logits, graph.laid_out()[1])
    torch.testing.assert_close(weights, by_slots(logits, graph, envelope, attend_self), rtol=0, atol=1e-12)


def test_inside_the_radius_slots_are_a_plain_softmax():
    graph = edge_graph([3, 3], table=True, attend_self=False)
    slots = Slots.of(graph.laid_out()[0], torch.ones(6, dtype=torch.float64), attend_self=False)
    logits = 3 * normal(2, 3, 4)
    torch.testing.assert_close(slot_softmax(logits, slots)[0], logits.softmax(1))


@pytest.mark.parametrize("logit", [0.0, 40.0, 300.0])
def test_a_neighbour_leaves_smoothly_whatever_its_logit(logit: float):
    """As its envelope goes to zero its weight does, linearly at the most, and that of the others becomes theirs."""
    table = Table(1, 3)
    logits = torch.tensor([[[logit], [0.0], [1.0]]], dtype=torch.float64)
    others = torch.tensor([0.0, 1.0], dtype=torch.float64).softmax(0)
    for u in (1e-3, 1e-6, 0.0):
        envelope = torch.tensor([u, 1.0, 1.0], dtype=torch.float64)
        weights = slot_softmax(logits, Slots.of(table, envelope, attend_self=False))[0][0, :, 0]
        assert weights[0] <= u * (1 if logit > 100 else 1e-1 + u)
        torch.testing.assert_close(weights[1:], others, rtol=0, atol=1e-15 + 2 * u * max(logit, 1.0))


def test_structures_stay_apart():
    """NaN in the logits of one receiver does not reach another."""
    graph = edge_graph([3, 0, 2], table=True)
    logits = normal(3, slots_of(graph), 2)
    logits[0] = torch.nan
    assert all(x[1:].isfinite().all() for x in slot_softmax(logits, graph.laid_out()[1]))
    logits = normal(5, 2)
    logits[:3] = torch.nan
    assert edge_softmax(logits, graph, 1e-16)[3:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_many_empty_slots_take_nothing(dtype: torch.dtype):
    """One neighbour beside eighty empty slots has all the weight, in half precision too; no NaN in second gradients."""
    receivers = torch.tensor([0] + [1] * 81)
    table = Table.from_groups(receivers, 3)
    for attend_self in (False, True):
        envelope = torch.ones(82, dtype=dtype, requires_grad=True)
        slots = Slots.of(table, envelope, attend_self)
        logits = torch.zeros(3, 81 + attend_self, 2, dtype=dtype, requires_grad=True)
        weights, _ = slot_softmax(logits, slots)
        assert weights.dtype == dtype
        assert (weights[0, : 1 + attend_self] == 1 / (1 + attend_self)).all()
        assert weights[0, 1 + attend_self :].abs().max() == 0
        assert weights[2, int(attend_self) :].abs().max() == 0
        first = torch.autograd.grad(weights.float().square().sum(), (logits, envelope), create_graph=True)
        for second in torch.autograd.grad(total(g.float().square().sum() for g in first), (logits, envelope)):
            assert second.isfinite().all()


@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("name", ["ragged", "equal", "no edges"])
def test_gradients_of_two_orders_of_slots(name: str, attend_self: bool):
    graph = edge_graph(SIZES[name], table=True, attend_self=attend_self)

    def function(logits: Tensor, envelope: Tensor, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return slot_softmax(logits, Slots.of(graph.laid_out()[0], envelope, attend_self), gates)

    logits = normal(graph.count, slots_of(graph), 2)
    if logits.numel():
        assert graph.envelope is not None
        given = {"logits": logits, "envelope": 0.1 + graph.envelope}
        assert_gradients(function, given)
        assert_gradients(function, {**given, "gates": normal(graph.count, 2, seed=3)}, fast=True)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("eps", [1e-16, 0.3])
@pytest.mark.parametrize("envelope", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_edges(name: str, envelope: bool, eps: float, masked: bool):
    graph = edge_graph(SIZES[name], envelope=envelope)
    logits = 3 * normal(len(graph.senders), 2)
    kept = (normal(len(graph.senders), 2, seed=4) > 0) * 1.7 if masked else None
    weights = edge_softmax(logits, graph, eps, kept)
    assert weights.shape == logits.shape
    torch.testing.assert_close(weights, by_edges(logits, graph, eps, kept), rtol=0, atol=1e-12)


def test_edges_of_a_receiver_share_one():
    graph = edge_graph([3, 0, 2], envelope=False)
    logits = normal(5, 4)
    weights = edge_softmax(logits, graph, 0.0)
    torch.testing.assert_close(weights[:3], logits[:3].softmax(0))
    torch.testing.assert_close(weights[3:], logits[3:].softmax(0))
    far = edge_softmax(logits + torch.tensor([1e4, -1e4, 0.0, 1e3]), graph, 0.0)
    torch.testing.assert_close(far, weights, rtol=0, atol=1e-10)


def test_receivers_all_of_whose_edges_are_left_out_get_nothing():
    graph = edge_graph([2, 1])
    kept = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    weights = edge_softmax(normal(3, 1), graph, 1e-16, kept)
    assert weights[:2].abs().max() == 0
    none = replace(graph, envelope=torch.zeros(3, dtype=torch.float64))
    assert edge_softmax(normal(3, 1), none, 1e-16).abs().max() == 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("envelope", [False, True])
def test_gradients_of_two_orders_of_edges(envelope: bool, masked: bool):
    graph = edge_graph(SIZES["ragged"], envelope=envelope)
    kept = (normal(6, 2, seed=4) > -1) * 1.7 if masked else None

    def function(logits: Tensor, envelope: Tensor | None = None) -> Tensor:
        return edge_softmax(logits, replace(graph, envelope=envelope), 1e-16, kept)

    given = {"envelope": graph.envelope} if envelope else {}
    assert_gradients(function, {"logits": normal(6, 2), **given})
    empty = edge_graph([0, 0])
    leaf = torch.zeros(0, 2, dtype=torch.float64, requires_grad=True)
    edge_softmax(leaf, empty, 1e-16).sum().backward()
    assert leaf.grad.shape == (0, 2)


@pytest.mark.parametrize("name", ["ragged", "equal", "no edges"])
def test_pieces_are_the_whole(name: str):
    graph = edge_graph(SIZES[name], table=True)
    logits, slots = normal(len(graph.senders), 2), normal(graph.count, slots_of(graph), 2)
    gates = normal(graph.count, 2, seed=3)
    whole, in_slots = edge_softmax(logits, graph, 1e-3), slot_softmax(slots, graph.laid_out()[1], gates)[0]
    first = 0
    for rows, piece in graph.pieces(2):
        edges = slice(first, first + len(piece.senders))
        first = edges.stop
        torch.testing.assert_close(edge_softmax(logits[edges], piece, 1e-3), whole[edges], rtol=0, atol=1e-14)
        part, _ = slot_softmax(slots[rows, : slots_of(piece)], piece.laid_out()[1], gates[rows])
        torch.testing.assert_close(part, in_slots[rows, : slots_of(piece)], rtol=0, atol=1e-14)
        assert in_slots[rows, slots_of(piece) :].abs().sum() == 0


@pytest.mark.parametrize("dtype", CLOSE)
def test_dtypes(dtype: torch.dtype):
    exact, graph = (edge_graph(SIZES["ragged"], table=True, dtype=d) for d in (torch.float64, dtype))
    edges, slots = normal(6, 2), normal(exact.count, slots_of(exact), 2)
    eps = 1e-7 if dtype == torch.float16 else 1e-16
    for found, wanted in (
        (edge_softmax(edges.to(dtype), graph, eps), edge_softmax(edges, exact, eps)),
        (slot_softmax(slots.to(dtype), graph.laid_out()[1])[0], slot_softmax(slots, exact.laid_out()[1])[0]),
    ):
        assert found.dtype == dtype
        assert (found.double() - wanted).abs().max() < CLOSE[dtype]


def test_slots_have_their_own_precision_under_autocast():
    """Half-precision logits are weighed in the dtype of the slots."""
    graph = edge_graph(SIZES["ragged"], table=True, dtype=torch.float32)
    logits = normal(graph.count, slots_of(graph), 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = slot_softmax(logits, graph.laid_out()[1], logits[:, 0])
    assert {x.dtype for x in found} == {torch.float32}
    torch.testing.assert_close(found, slot_softmax(logits.float(), graph.laid_out()[1], logits[:, 0].float()))


def test_transforms():
    """grad is autograd's, and vmap is a loop."""
    graph = edge_graph(SIZES["ragged"], table=True)
    edges, slots = normal(3, 6, 2), normal(3, graph.count, slots_of(graph), 2)

    def of_edges(logits: Tensor) -> Tensor:
        return edge_softmax(logits, graph, 1e-16).square().sum()

    def of_slots(logits: Tensor) -> Tensor:
        return slot_softmax(logits, graph.laid_out()[1])[0].square().sum()

    for function, given in ((of_edges, edges), (of_slots, slots)):
        leaf = given.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(total(function(part) for part in leaf), leaf)
        torch.testing.assert_close(vmap(grad(function))(given), wanted)
        torch.testing.assert_close(vmap(function)(given), torch.stack([function(part) for part in given]))
