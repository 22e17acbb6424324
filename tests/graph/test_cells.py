"""Searching by cells gives what looking at all pairs gives."""

import math

import pytest
import torch
from torch import Tensor

from equiformer_pytorch.graph import nearest
from equiformer_pytorch.graph.cells import Cells, neighbours_by_cells
from equiformer_pytorch.graph.table import Table

POINTS = 600


def gas() -> Tensor:
    return torch.rand(POINTS, 3) * (POINTS / 0.05) ** (1 / 3)


def lattice() -> Tensor:
    axis = torch.arange(8.0)
    return torch.cartesian_prod(axis, axis, axis) * 1.5


def clusters() -> Tensor:
    return torch.cat((torch.randn(POINTS // 2, 3), torch.randn(POINTS // 2, 3) * 20 + 100))


def one_far_away() -> Tensor:
    return torch.cat((gas(), torch.tensor([[1e12, 0.0, 0.0]])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [gas, lattice, clusters, one_far_away])
@pytest.mark.parametrize(("count", "radius"), [(6, 1e5), (6, 2.0), (math.inf, 2.0), (POINTS, 1e5)])
def test_same_edges_as_all_pairs(make, count, radius, dtype):
    torch.manual_seed(0)
    coordinates = make().to(dtype)
    structure = torch.randint(0, 3, (len(coordinates),)).sort().values
    senders, receivers = neighbours_by_cells(coordinates, structure, count, radius)
    expected = nearest.find_neighbours(
        coordinates, Table.from_groups(structure, 3), num_neighbors=count, valid_radius=radius
    )
    assert torch.equal(senders, expected[0])
    assert torch.equal(receivers, expected[1])
    assert len(senders) > 0


def test_empty_stretches_take_one_cell():
    """So that keys of cells fit into 64 bits, however far points are spread."""
    coordinates = one_far_away().double()
    coordinates[0] = torch.tensor([0.0, -1e300, 1e300])
    cells = Cells(coordinates, coordinates.amin(0), torch.zeros(len(coordinates)).long(), 2.0)
    assert max(cells.shape) <= 2 * len(coordinates) + 3
    exact = torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")
    near = (exact.fill_diagonal_(math.inf) <= 2.0).sum()
    assert len(cells.nearest(torch.arange(len(coordinates)), math.inf, 2.0)[0]) == near > 0


def test_large_structures_are_searched_by_cells(monkeypatch):
    torch.manual_seed(0)
    coordinates = gas()
    table = Table(1, POINTS)
    all_pairs = nearest.find_neighbours(coordinates, table, num_neighbors=5, valid_radius=1e5)[:2]
    used = []

    def spy(*arguments):
        used.append(True)
        return neighbours_by_cells(*arguments)

    monkeypatch.setattr(nearest, "DENSE", 100)
    monkeypatch.setattr(nearest, "neighbours_by_cells", spy)
    by_cells = nearest.find_neighbours(coordinates, table, num_neighbors=5, valid_radius=1e5)[:2]
    assert used
    assert all(torch.equal(a, b) for a, b in zip(all_pairs[:2], by_cells[:2], strict=True))
