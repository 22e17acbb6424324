from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiformer_pytorch.graph.edges import Graph
from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.so3.edge_rotation import EdgeRotation
from tests.layers.harness import graph_of
from tests.models import build, example


@given(sizes=st.lists(st.integers(0, 5), max_size=5))
def test_tables_spread_and_gather(sizes):
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    table = Table.from_groups(group, len(sizes))
    members = torch.randn(sum(sizes), 2)
    if sum(sizes):
        spread = table.spread(members)
        assert spread.shape == (len(sizes), max(sizes), 2)
        assert table.gather(spread).equal(members)
        for row, (size, part) in enumerate(zip(sizes, members.split(sizes), strict=True)):
            assert spread[row, :size].equal(part)
            if table.mask is not None:
                assert table.mask[row].tolist() == [True] * size + [False] * (max(sizes) - size)
    assert (table.mask is None) == (len(set(sizes)) <= 1)


def test_equal_sizes_are_a_view():
    members = torch.randn(6, 2)
    assert Table.from_groups(torch.tensor([0, 0, 1, 1, 2, 2]), 3).spread(members).data_ptr() == members.data_ptr()


def test_sums_and_ends():
    model = build(valid_radius=1.5)
    sample = example(model)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool()
    sample.extra["mask"] = mask
    graph = graph_of(model, sample)
    x = torch.randn(11, 3, dtype=torch.float64)
    sums = graph.sum_structures(x)
    torch.testing.assert_close(sums, torch.stack((x[:7].sum(0), x[7:].sum(0))))
    ends = graph.add_ends(x, 10 * x)
    torch.testing.assert_close(ends, x[graph.senders] + 10 * x[graph.receivers])
    assert (graph.receivers.diff() >= 0).all()


def test_softmax_is_the_formula():
    """u · u e^t / Σ u e^t with t = u (s − mean of s), in rows of any length."""
    model = build(valid_radius=1.8)
    graph = graph_of(model, example(model))
    points, slots = graph.neighbours.rows, graph.neighbours.columns
    for attend_self in (True, False):
        logits = 3 * torch.randn(points, 2, slots + attend_self, dtype=torch.float64)
        weights = graph.softmax(logits, attend_self)
        assert weights.shape == logits.shape
        for point in range(points):
            edges = (graph.receivers == point).nonzero().flatten()
            u = graph.envelope[edges]
            if attend_self:
                u = torch.cat((u.new_ones(1), u))
            s = logits[point, :, : len(u)]
            terms = u * (u * (s - (u * s).sum(-1, keepdim=True) / (u.sum() + 0.01))).exp()
            expected = u * terms / terms.sum(-1, keepdim=True).clamp(min=1e-300)
            torch.testing.assert_close(weights[point, :, : len(u)], expected)
            assert weights[point, :, len(u) :].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_many_empty_slots_take_nothing(dtype):
    """One neighbour beside eighty empty slots has all the weight, in half precision too; no NaN in second gradients."""
    receivers = torch.tensor([0] + [1] * 81)
    graph = Graph(
        senders=torch.zeros(82, dtype=torch.long),
        receivers=receivers,
        neighbours=Table.from_groups(receivers, 3),
        structures=Table(1, 3),
        envelope=torch.ones(82, dtype=dtype),
        edge_embedding=torch.zeros(82, 1, dtype=dtype),
        rotation=EdgeRotation(1, ()),
    )
    for attend_self in (False, True):
        logits = torch.zeros(3, 2, 81 + attend_self, dtype=dtype, requires_grad=True)
        weights = graph.softmax(logits, attend_self)
        assert (weights[0, :, : 1 + attend_self] == 1 / (1 + attend_self)).all()
        assert weights[0, :, 1 + attend_self :].abs().max() == 0
        assert weights[2, :, int(attend_self) :].abs().max() == 0
        envelope = graph.envelope.clone().requires_grad_()
        weights = replace(graph, envelope=envelope).softmax(logits, attend_self)
        first = torch.autograd.grad(weights.float().square().sum(), (logits, envelope), create_graph=True)
        total = torch.stack([g.float().square().sum() for g in first]).sum()
        for second in torch.autograd.grad(total, (logits, envelope)):
            assert second.isfinite().all()
