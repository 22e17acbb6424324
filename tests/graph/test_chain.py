"""Edges of chains: along the sequence, nearest, random; none twice, none between chains."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiformer_pytorch import Equiformer, chain_edges


def walk(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random walks with steps of 3.8, and the walk of each point."""
    g = torch.Generator().manual_seed(seed)
    steps = torch.randn(sum(lengths), 3, generator=g, dtype=torch.float64)
    return (3.8 * steps / steps.norm(dim=1, keepdim=True)).cumsum(0), torch.arange(len(lengths)).repeat_interleave(
        torch.tensor(lengths, dtype=torch.long)
    )


def as_set(edge_index: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.T.tolist()))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(0, 5), st.sets(st.integers(1, 9), max_size=3))
def test_along_the_sequence_and_nearest_beside_a_plain_search(lengths: list[int], nearest: int, steps: set[int]):
    coors, batch = walk(lengths)
    edge_index, offset = chain_edges(coors, batch, steps=sorted(steps), nearest=nearest, random=0)
    wanted = set()
    for i, own in enumerate(batch.tolist()):
        others = [j for j in range(len(batch)) if batch[j] == own and j != i]
        wanted |= {(j, i) for j in others if abs(j - i) in steps}
        by_distance = sorted(others, key=lambda j, i=i: float((coors[j] - coors[i]).norm()))
        wanted |= {(j, i) for j in by_distance[:nearest]}
    assert as_set(edge_index) == wanted
    assert edge_index.shape[1] == len(wanted), "no edge twice"
    assert torch.equal(offset, edge_index[0] - edge_index[1])
    keys = edge_index[1] * len(batch) + edge_index[0]
    assert (keys.diff() > 0).all(), "sorted by receiver, then sender"


def test_random_edges_are_within_the_chain_seeded_and_prefer_the_near():
    coors, batch = walk([40, 7, 1])
    generator = torch.Generator().manual_seed(3)
    edge_index, _ = chain_edges(coors, batch, steps=(), nearest=0, random=5, generator=generator)
    assert (batch[edge_index[0]] == batch[edge_index[1]]).all()
    assert (edge_index[0] != edge_index[1]).all()
    again, _ = chain_edges(coors, batch, steps=(), nearest=0, random=5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(edge_index, again)
    line = torch.zeros(5, 3, dtype=torch.float64)
    line[:, 0] = torch.tensor([0.0, 1, 2, 4, 8])
    counts = torch.zeros(5)
    for seed in range(2000):
        found, _ = chain_edges(line, steps=(), nearest=0, random=1, generator=torch.Generator().manual_seed(seed))
        counts[found[0][found[1] == 0]] += 1
    expected = torch.tensor([0, 1, 1 / 8, 1 / 64, 1 / 512])
    torch.testing.assert_close(counts / 2000, expected / expected.sum(), atol=0.03, rtol=0)


def test_sequences_of_one_and_of_none():
    assert chain_edges(torch.zeros(1, 3))[0].shape == (2, 0)
    assert chain_edges(torch.zeros(0, 3))[0].shape == (2, 0)
    edge_index, offset = chain_edges(torch.randn(2, 3))
    assert edge_index.tolist() == [[1, 0], [0, 1]]
    assert offset.tolist() == [1, -1]


def test_as_edges_of_a_model():
    coors, batch = walk([9, 5])
    edge_index, offset = chain_edges(coors, batch, nearest=3, random=1)
    model = Equiformer(num_tokens=3, dim=8, depth=1, num_edge_tokens=65, edge_dim=4).double()
    out = model(torch.zeros(14).long(), coors, batch=batch, edge_index=edge_index, edge_attr=offset.clamp(-32, 32) + 32)
    assert out.type1.shape == (14, 8, 3)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": torch.tensor([1, 0, 0])}, "batch must ascend"),
        ({"batch": torch.zeros(2).long()}, r"batch must have shape \(points,\)"),
        ({"coors": torch.zeros(3, 2)}, r"coors must have shape \(points, 3\)"),
        ({"coors": torch.full((3, 3), torch.nan)}, "coors must be finite"),
        ({"nearest": -1}, "nearest must be at least 0"),
        ({"random": -2}, "random must be at least 0"),
        ({"steps": (0,)}, "steps must be at least 1"),
    ],
)
def test_errors(change: dict, words: str):
    with pytest.raises(ValueError, match=words):
        chain_edges(**{"coors": torch.randn(3, 3), **change})
