"""Neighbour search against the obvious loops."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiformer_pytorch.graph import nearest
from equiformer_pytorch.graph.table import Table


def obvious(coors, sizes, num_neighbors, radius, steps, cap):
    """Edges as (receiver, sender), by sorting lists."""
    edges, first = [], 0
    for structure, size in enumerate(sizes):
        x = coors[first : first + size].tolist()
        for i in range(size):
            near = [(math.dist(x[i], x[j]), j) for j in range(size) if j != i and math.dist(x[i], x[j]) <= radius]
            if steps is None:
                chosen = sorted(near)
                chosen = chosen if num_neighbors == math.inf else chosen[: int(num_neighbors)]
            else:
                linked = sorted((steps[structure][i][j], d, j) for d, j in near if steps[structure][i][j] > 0)
                linked = linked if cap == math.inf else linked[: int(cap)]
                others = sorted((d, j) for d, j in near if steps[structure][i][j] == 0)
                others = others if num_neighbors == math.inf else others[: int(num_neighbors)]
                chosen = linked + others
            edges += sorted((first + i, first + c[-1]) for c in chosen)
        first += size
    return edges


@settings(max_examples=60)
@given(data=st.data())
def test_equal_the_obvious(data):
    """Lattice coordinates: many equal distances, exact in floating point."""
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    total = sum(sizes)
    coordinate = st.sampled_from([0.0, 1.0, 2.0, 3.0])
    coors = torch.tensor(data.draw(st.lists(coordinate, min_size=3 * total, max_size=3 * total))).double().view(-1, 3)
    count = st.sampled_from([0, 1, 2, 4, 100, math.inf])
    num_neighbors, cap = data.draw(count), data.draw(count)
    radius = data.draw(st.sampled_from([0.5, 1.0, 1.5, 2.5, 1e5]))
    structures = Table.from_groups(torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)), len(sizes))
    steps = None
    if data.draw(st.booleans()):
        size = len(sizes) * structures.columns**2
        steps = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), dtype=torch.long)
        steps = steps.view(len(sizes), structures.columns, structures.columns)
    expected = obvious(coors, sizes, num_neighbors, radius, None if steps is None else steps.tolist(), cap)
    for dense in (nearest.DENSE, 0):  # with 0 by cells, where there is no adjacency
        with mock.patch.object(nearest, "DENSE", dense):
            senders, receivers, known = nearest.find_neighbours(
                coors,
                structures,
                num_neighbors=num_neighbors,
                valid_radius=radius,
                graph_distance=steps,
                max_sparse_neighbors=cap,
            )
        assert list(zip(receivers.tolist(), senders.tolist(), strict=True)) == expected
        counts = torch.bincount(receivers, minlength=total).tolist()
        assert known is None or not counts or known == (min(counts), max(counts))


@pytest.mark.parametrize("pairs", [1, 10, 100])
@pytest.mark.parametrize("adjacency", [True, False])
def test_in_pieces(monkeypatch, pairs, adjacency):
    coors = torch.randn(23, 3, dtype=torch.float64)
    structures = Table.from_groups(torch.tensor([0] * 9 + [1] * 14), 2)
    steps = torch.randint(0, 3, (2, 14, 14)) if adjacency else None
    options = {"num_neighbors": 3, "valid_radius": 1.5, "graph_distance": steps, "max_sparse_neighbors": 2}
    whole = nearest.find_neighbours(coors, structures, **options)[:2]
    monkeypatch.setattr(nearest, "PAIRS_AT_ONCE", pairs)
    for one, two in zip(nearest.find_neighbours(coors, structures, **options)[:2], whole, strict=True):
        assert one.equal(two)


def test_close_distances_far_from_the_origin():
    """No cancellation: differences before squares."""
    coors = torch.tensor([[0.0, 0, 0], [1.001, 0, 0], [-1.0, 0, 0]]) + torch.tensor([1000.0, 0, 0])
    senders, receivers, _ = nearest.find_neighbours(coors, Table(1, 3), num_neighbors=1, valid_radius=5.0)
    assert senders[receivers == 0].tolist() == [2]


@pytest.mark.parametrize("num_neighbors", [3, 16, math.inf])
@pytest.mark.parametrize("shape", ["cloud", "line", "clusters", "one place", "far apart"])
def test_cells_equal_all_pairs(monkeypatch, shape, num_neighbors):
    """Clouds of every form, of several structures, alone and together."""
    x = torch.randn(300, 3, dtype=torch.float64)
    coors = {
        "cloud": x,
        "line": x * torch.tensor([50.0, 1e-3, 0.0]),
        "clusters": 0.1 * x + 20 * torch.randint(0, 3, (300, 1)),
        "one place": 0 * x + 7,
        "far apart": 1e5 * x,
    }[shape]
    structures = Table.from_groups(torch.tensor([0] * 120 + [1] * 150 + [2] * 30), 3)
    radius = 1e5 if shape == "far apart" else 1.0
    options = {"num_neighbors": num_neighbors, "valid_radius": radius}
    whole = nearest.find_neighbours(coors, structures, **options)[:2]
    monkeypatch.setattr(nearest, "DENSE", 0)
    for one, two in zip(nearest.find_neighbours(coors, structures, **options)[:2], whole, strict=True):
        assert one.equal(two)
    senders, receivers, _ = nearest.find_neighbours(coors[:120], Table(1, 120), **options)
    mine = whole[1] < 120
    assert senders.equal(whole[0][mine])
    assert receivers.equal(whole[1][mine])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_do_not_depend_on_the_rest_of_the_batch(monkeypatch, dtype, turned):
    """A lattice whose coordinates are rounded: alone, beside others, by cells or by all pairs."""
    lattice = 0.1 * torch.cartesian_prod(*[torch.arange(6, dtype=dtype)] * 3)
    if turned:
        lattice = lattice @ torch.linalg.qr(torch.randn(3, 3, dtype=dtype)).Q
    other = torch.randn(50, 3, dtype=dtype) * 3 - 7.3
    together = torch.cat((lattice, other))
    options = {"num_neighbors": 4, "valid_radius": 1e5}
    table = Table.from_groups(torch.tensor([0] * 216 + [1] * 50), 2)
    results = []
    for dense in (nearest.DENSE, 0):
        monkeypatch.setattr(nearest, "DENSE", dense)
        results.append(nearest.find_neighbours(lattice, Table(1, 216), **options)[:2])
        senders, receivers, _ = nearest.find_neighbours(together, table, **options)
        results.append((senders[receivers < 216], receivers[receivers < 216]))
    for senders, receivers in results[1:]:
        assert receivers.equal(results[0][1])
        assert senders.equal(results[0][0])
