"""Ragged groups as a rectangle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.counts import counted
from equiformer_pytorch.graph.table import Table, group_bounds


def grouped(sizes: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))


@given(sizes=st.lists(st.integers(0, 5), max_size=5))
def test_tables_spread_gather_and_sum(sizes):
    table = Table.from_groups(grouped(sizes), len(sizes))
    members = torch.randn(sum(sizes), 2)
    if sum(sizes):
        spread = table.spread(members)
        assert spread.shape == (len(sizes), max(sizes), 2)
        assert table.gather(spread).equal(members)
        for row, (size, part) in enumerate(zip(sizes, members.split(sizes), strict=True)):
            assert spread[row, :size].equal(part)
            if table.mask is not None:
                assert table.mask[row].tolist() == [True] * size + [False] * (max(sizes) - size)
        sums = torch.stack([part.sum(0) for part in members.split(sizes)])
        torch.testing.assert_close(table.sum(members), sums)
    assert (table.mask is None) == (len(set(sizes)) <= 1)


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5), room=st.integers(0, 2), fewer=st.integers(0, 2))
def test_bounds_that_are_known_are_not_looked_for(sizes, room, fewer):
    """Where the most is not reached the rectangle is wider than it need be."""
    group, members = grouped(sizes), torch.randn(sum(sizes), 2)
    plain = Table.from_groups(group, len(sizes))
    told = Table.from_groups(group, len(sizes), (max(min(sizes) - fewer, 0), max(sizes) + room))
    if sum(sizes):
        spread = told.spread(members)
        assert spread[:, : plain.columns].equal(plain.spread(members))
        assert told.gather(spread).equal(members)
        torch.testing.assert_close(told.sum(members), plain.sum(members))
    if told.mask is not None:
        assert told.mask.sum(1).tolist() == sizes
    assert told.rows == len(sizes)
    assert plain.columns <= told.columns <= max(sizes) + room


def test_what_is_known_is_not_asked_for():
    """No value of a tensor is waited for."""
    group = grouped([2, 1, 0])
    for known, count in ((None, 1), ((0, 2), 0)):
        assert counted(lambda known=known: Table.from_groups(group, 3, known)).waits.total() == count


def test_equal_sizes_are_a_view():
    members = torch.randn(6, 2)
    for known in (None, (2, 2), (0, 2)):
        table = Table.from_groups(torch.tensor([0, 0, 1, 1, 2, 2]), 3, known)
        assert table.spread(members).data_ptr() == members.data_ptr()


def test_groups_stay_apart():
    """Padding holds what its own group has, or zeros: NaN in one group does not reach another."""
    table = Table.from_groups(grouped([2, 1, 0, 3]), 4)
    members = torch.tensor([[torch.nan], [torch.nan], [1.0], [torch.nan], [torch.nan], [torch.nan]])
    spread = table.spread(members)
    assert spread[0].isnan().all()
    assert spread[1].flatten().tolist() == [1.0, 1.0, 1.0]
    assert spread[2].flatten().tolist() == [0.0, 0.0, 0.0]
    assert spread[3].isnan().all()


def test_groups_without_members():
    for groups in (0, 3):
        table = Table.from_groups(torch.zeros(0, dtype=torch.long), groups)
        assert table.spread(torch.zeros(0, 2)).shape == (groups, 0, 2)
        assert table.sum(torch.zeros(0, 2)).tolist() == [[0.0, 0.0]] * groups


def test_bounds():
    assert group_bounds(grouped([2, 0, 1]), 3).tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("sizes", [[2, 2], [3, 0, 1]])
def test_gradients_of_spreading_come_back_to_the_members(sizes):
    table = Table.from_groups(grouped(sizes), len(sizes))
    members = torch.randn(sum(sizes), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(table.spread, (members,))
    assert torch.autograd.gradcheck(table.sum, (members,))
