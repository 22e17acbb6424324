"""The graph of edges: sums, pieces, and the tensors that carry gradients."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiformer_pytorch.graph.edges import Slots
from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.ops.rotate import gather_rotate
from tests.layers.harness import graph_of
from tests.models import build, example
from tests.ops.graphs import edge_graph


def test_sums_and_ends():
    model = build(valid_radius=1.5, num_linear_attn_heads=1)  # which looks at structures
    sample = example(model)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool()
    sample.extra["mask"] = mask
    graph = graph_of(model, sample)
    x = torch.randn(11, 3, dtype=torch.float64)
    sums = graph.structures.sum(x)
    torch.testing.assert_close(sums, torch.stack((x[:7].sum(0), x[7:].sum(0))))
    # Of invariants alone a rotation makes nothing else.
    ends = gather_rotate(x[:, None], 10 * x[:, None], graph, 0).squeeze(1)
    torch.testing.assert_close(ends, x[graph.senders] + 10 * x[graph.receivers])
    assert (graph.receivers.diff() >= 0).all()
    edges = torch.randn(len(graph.senders), 2, 3, dtype=torch.float64)
    received = [edges[graph.receivers == point].sum(0) for point in range(11)]
    torch.testing.assert_close(graph.sum_receivers(edges), torch.stack(received))


def test_spreading_needs_a_table():
    graph = edge_graph([2, 1])
    with pytest.raises(ValueError, match="no table"):
        graph.spread(torch.zeros(3, 1))
    with_table = edge_graph([2, 1], table=True)
    x = torch.randn(3, 2)
    assert with_table.spread(x).equal(with_table.table.spread(x))


@pytest.mark.parametrize("attend_self", [False, True])
@pytest.mark.parametrize("sizes", [[2, 2], [3, 0, 1], [0, 0], []])
def test_slots_are_the_envelope_side_by_side(sizes, attend_self):
    envelope = torch.rand(sum(sizes), dtype=torch.float64)
    if sum(sizes):
        envelope[0] = 0
    receivers = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    slots = Slots.of(Table.from_groups(receivers, len(sizes)), envelope, attend_self)
    assert slots.envelope.shape == (len(sizes), attend_self + max(sizes, default=0), 1)
    for row, part in enumerate(envelope.split(sizes)):
        u = torch.cat((part.new_ones(int(attend_self)), part))
        assert slots.envelope[row, : len(u), 0].equal(u)
        assert slots.envelope[row, len(u) :].abs().sum() == 0
        torch.testing.assert_close(slots.minus_share[row, : len(u), 0], -u / (u.sum() + 0.01))
        assert slots.minus_share[row, len(u) :].abs().sum() == 0
        present = u > 0
        torch.testing.assert_close(slots.log_envelope[row, : len(u), 0][present], u[present].log())
    assert slots.log_envelope.isfinite().all()
    assert (slots.log_envelope[slots.envelope == 0] < -1e300).all()


@pytest.mark.parametrize("table", [False, True])
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), most=st.integers(1, 12))
def test_pieces_are_the_graph(table, sizes, most):
    graph = edge_graph(sizes, max_degree=5, table=table)
    pieces = graph.pieces(most)
    edges = 0
    for (rows, piece), (following, _) in zip(pieces, [*pieces[1:], (slice(len(sizes), None), None)], strict=True):
        assert rows.stop == following.start
        assert piece.count == rows.stop - rows.start
        own = slice(edges, edges + sum(sizes[rows]))
        edges = own.stop
        assert piece.senders.equal(graph.senders[own])
        assert (piece.receivers + rows.start).equal(graph.receivers[own])
        assert piece.receiver_points.equal(graph.receivers[own])
        assert piece.scalars.equal(graph.scalars[own])
        assert piece.envelope.equal(graph.envelope[own])
        assert all(
            part.equal(block[own]) for part, block in zip(piece.rotation.blocks, graph.rotation.blocks, strict=True)
        )
        x = torch.randn(len(graph.senders), 2)
        assert piece.sum_receivers(x[own]).equal(graph.sum_receivers(x)[rows])
        widest = max(sizes[rows])
        taken = widest * piece.count if table else sum(sizes[rows])
        assert taken <= most or piece.count == 1
        if table:
            assert (piece.table.rows, piece.table.columns) == (piece.count, widest)
            assert piece.slots is not None
            assert graph.slots is not None
            for part, slots in zip(piece.slots, graph.slots, strict=True):
                assert part.equal(slots[rows, : widest + 1])
    assert pieces[0][0].start == 0
    assert edges == sum(sizes)
    # As few as there can be: no two neighbours fit into one.
    for (one, _), (other, _) in pairwise(pieces):
        joined = sizes[one.start : other.start + 1]
        assert (max(joined) * len(joined) if table else sum(joined)) > most


def test_pieces_are_made_once_and_carry_gradients():
    """Also where they were first made with nothing recorded."""
    scalars = torch.randn(6, 4, requires_grad=True)
    graph = replace(edge_graph([2, 1, 3]), scalars=scalars)
    with torch.no_grad():
        graph.pieces(2)
    pieces = graph.pieces(2)
    assert graph.pieces(2) is pieces
    torch.cat([piece.scalars for _, piece in pieces]).sum().backward()
    assert scalars.grad is not None
    assert scalars.grad.equal(torch.ones(6, 4))


def test_no_points_make_no_pieces():
    assert edge_graph([]).pieces(3) == edge_graph([], table=True).pieces(3) == []


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("envelope", [False, True])
def test_tensors_are_taken_out_and_put_in(table, envelope):
    graph = edge_graph([2, 0, 3], max_degree=5, table=table, envelope=envelope)
    tensors = graph.tensors()
    assert len(tensors) == 1 + 3 * 1 + envelope + 3 * table
    same = graph.with_tensors(tensors)
    assert same.rotation.spans == graph.rotation.spans
    assert all(a is b for a, b in zip(same.tensors(), tensors, strict=True))
    other = graph.with_tensors([x + 1 for x in tensors])
    for name in ("scalars", "envelope"):
        if getattr(graph, name) is not None:
            assert getattr(other, name).equal(getattr(graph, name) + 1)
    assert all(a.equal(b + 1) for a, b in zip(other.rotation.blocks, graph.rotation.blocks, strict=True))
    if graph.slots is not None:
        assert other.slots is not None
        assert all(a.equal(b + 1) for a, b in zip(other.slots, graph.slots, strict=True))
    assert replace(other, scalars=graph.scalars).senders is graph.senders
