"""Neighbours within a cutoff against ASE's and against the obvious loops, with vesin and without."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiformer_pytorch.atoms import radius_graph
from equiformer_pytorch.graph import periodic
from tests import tolerances
from tests.models import build

try:
    import vesin
except ImportError:
    vesin = None


@pytest.fixture(params=["vesin", "torch"])
def search(request, monkeypatch) -> str:
    """Both ways to search."""
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "vesin", None)
    elif vesin is None:
        pytest.skip("vesin is not installed")
    return request.param


def edges_of(found: tuple[Tensor, Tensor]) -> list[tuple[int, ...]]:
    """(receiver, sender, offset) in the order that came."""
    edge_index, offsets = found
    assert edge_index.dtype == offsets.dtype == torch.int64
    assert edge_index.shape == (2, len(offsets))
    return list(map(tuple, torch.column_stack((edge_index[1], edge_index[0], offsets)).tolist()))


def obvious(pos: Tensor, cutoff: float, cell: Tensor, pbc: list[bool], reach: int) -> list[tuple[int, ...]]:
    """All images up to `reach` cells away, one after the other."""
    shifts = list(itertools.product(*[range(-reach, reach + 1) if p else [0] for p in pbc]))
    edges = []
    for i, j in itertools.product(range(len(pos)), repeat=2):
        for shift in shifts:
            vector = pos[j] - pos[i] + sum(s * row for s, row in zip(shift, cell, strict=True))
            if (i != j or any(shift)) and vector.norm() < cutoff:
                edges.append((i, j, *shift))
    return edges


def by_ase(pos: Tensor, cutoff: float, cell: Tensor, pbc: list[bool]) -> list[tuple[int, ...]]:
    ase = pytest.importorskip("ase")
    from ase.neighborlist import neighbor_list

    atoms = ase.Atoms(f"H{len(pos)}", positions=pos.numpy(), cell=cell.numpy(), pbc=pbc)
    i, j, offsets = neighbor_list("ijS", atoms, cutoff)
    return sorted((int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, offsets, strict=True))


def random_cell(g: torch.Generator, scale: float) -> Tensor:
    """Triclinic, with angles between about 50° and 130°."""
    while True:
        cell = torch.eye(3, dtype=torch.float64) + 0.5 * torch.randn(3, 3, generator=g, dtype=torch.float64)
        if cell.det() > 0.3:
            return scale * cell


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_ase(search, seed):
    """Cells from a fraction of the cutoff to several, every mixture of periodic axes, atoms inside and far outside."""
    g = torch.Generator().manual_seed(seed)
    scale = [0.7, 2.0, 6.0][seed % 3]
    cell = random_cell(g, scale)
    count = int(torch.randint(1, 9, (), generator=g))
    pos = 3 * scale * torch.randn(count, 3, generator=g, dtype=torch.float64)
    cutoff = 0.5 + 2 * float(torch.rand((), generator=g))
    for pbc in ([bool(seed >> axis & 1) for axis in range(3)], [True] * 3):
        expected = by_ase(pos, cutoff, cell, pbc)
        assert edges_of(radius_graph(pos, cutoff, cell=cell, pbc=pbc)) == expected


def test_a_large_crystal(search):
    g = torch.Generator().manual_seed(0)
    cell = random_cell(g, 20.0)
    pos = torch.rand(800, 3, generator=g, dtype=torch.float64) @ cell
    assert edges_of(radius_graph(pos, 4.0, cell=cell)) == by_ase(pos, 4.0, cell, [True] * 3)


@given(data=st.data())
def test_equal_to_the_obvious(data):
    """With many equal distances, which are told apart by the order alone where there is a cap."""
    count = data.draw(st.integers(0, 5))
    place = st.sampled_from([0.0, 0.5, 1.25, 3.5, -2.0])
    pos = torch.tensor(data.draw(st.lists(place, min_size=3 * count, max_size=3 * count))).double().view(-1, 3)
    cell = torch.tensor([[2.0, 0, 0], [0.5, 2.5, 0], [0, -0.5, 1.5]]).double()
    pbc = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    cutoff = data.draw(st.sampled_from([0.8, 1.9, 3.1]))
    expected = obvious(pos, cutoff, cell, pbc, 6)

    def length(edge: tuple[int, ...]) -> float:
        i, j, *shift = edge
        return round(float((pos[j] - pos[i] + torch.tensor(shift).double() @ cell).norm()), 9)

    for installed in ({}, {"vesin": None}):
        with mock.patch.dict(sys.modules, installed):
            if any(length(edge) == 0 for edge in expected):
                with pytest.raises(ValueError, match="on top of each other"):
                    radius_graph(pos, cutoff, cell=cell, pbc=pbc)
                continue
            assert edges_of(radius_graph(pos, cutoff, cell=cell, pbc=pbc)) == expected
            for cap in (1, 4):
                chosen = edges_of(radius_graph(pos, cutoff, cell=cell, pbc=pbc, max_neighbors=cap))
                assert chosen == sorted(set(chosen) & set(expected))
                # Which of several equally far ones is a matter of rounding here; how far they are is not.
                for i in range(count):
                    nearest = sorted(length(edge) for edge in expected if edge[0] == i)[:cap]
                    assert sorted(length(edge) for edge in chosen if edge[0] == i) == nearest


@pytest.mark.parametrize("cap", [1, 3, 7, 100])
def test_neighbours_nearly_as_far_as_the_first_beyond_are_kept(search, cap: int):
    """Unless the number is strict: all whose square is at most 0.01 more; of each point by itself."""
    pos = 0.3 * torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pos = pos + torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [8, 8, 8], [8, 8, 9]]).double()
    structure, cell = torch.tensor([0, 0, 0, 0, 1, 1]), torch.diag(torch.tensor([2.0, 2.1, 2.05])).double()
    options: dict[str, Any] = {"batch": structure, "cell": torch.stack((cell, 3 * cell))}
    edge_index, offsets = radius_graph(pos, 2.6, **options)
    vectors = pos[edge_index[0]] + (offsets.double()[:, None] @ options["cell"][structure[edge_index[0]]])[:, 0]
    square = (vectors - pos[edge_index[1]]).square().sum(1)
    kept = torch.zeros_like(square, dtype=torch.bool)
    for point in range(6):
        own = edge_index[1] == point
        beyond = square[own].sort().values[cap:]
        kept |= own & (square <= (beyond[0] + 0.01 if len(beyond) else torch.inf))
    found = radius_graph(pos, 2.6, **options, max_neighbors=cap, strict_neighbors=False)
    assert torch.equal(found[0], edge_index[:, kept])
    assert torch.equal(found[1], offsets[kept])


def test_which_neighbours_are_kept_is_a_matter_of_symmetry(search):
    """Of a cubic lattice, whole shells."""
    for cap, shells in ((1, 6), (5, 6), (6, 18), (17, 18), (18, 26), (26, 26)):
        found = radius_graph(torch.zeros(1, 3), 1.9, cell=torch.eye(3), max_neighbors=cap, strict_neighbors=False)
        assert found[0].shape == (2, shells)


def test_ties_go_to_the_first(search):
    """On a simple cubic lattice all six images are equally far: in the order of the edges."""
    for cap in range(1, 7):
        edges = edges_of(radius_graph(torch.zeros(1, 3), 1.2, cell=torch.eye(3), max_neighbors=cap))
        every = [(0, 0, *o) for o in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, o)) == 1]
        assert edges == sorted(every)[:cap]


def test_closer_than_the_cutoff(search):
    """As in ASE's list, a distance that is the cutoff itself is no edge."""
    assert radius_graph(torch.zeros(1, 3), 1.0, cell=torch.eye(3))[0].shape == (2, 0)
    assert radius_graph(torch.zeros(1, 3), 1.0 + 1e-6, cell=torch.eye(3))[0].shape == (2, 6)


@pytest.mark.parametrize("axis", range(3))
def test_a_chain_along_any_direction(search, axis):
    """Whatever the one periodic vector points along, and however long the others are."""
    for direction in range(3):
        cell = torch.zeros(3, 3)
        cell[axis, direction] = 2.0
        found = radius_graph(torch.tensor([[0.3, 7.0, -5.0]]), 4.5, cell=cell, pbc=torch.arange(3) == axis)
        assert found[0].shape == (2, 4)
        assert found[1][:, axis].tolist() == [-2, -1, 1, 2]


def mixed_batch() -> tuple[list[Tensor], Tensor, Tensor]:
    """A molecule, a chain, a slab, an atom alone in a tiny crystal, nothing, and an open one outside of its cell."""
    g = torch.Generator().manual_seed(3)
    sizes = [5, 2, 4, 1, 0, 6]
    pbc = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]]).bool()
    cells = torch.stack([random_cell(g, scale) for scale in (3.0, 2.0, 2.5, 0.8, 1.0, 1.0)])
    cells[0] = 0
    cells[2, 2] = 0
    return [2 * torch.randn(n, 3, generator=g, dtype=torch.float64) for n in sizes], cells, pbc


def test_mixed_periodicity_in_one_batch(search):
    """A batch, in any order of its points, gives what its structures give one by one, capped too."""
    parts, cells, pbc = mixed_batch()
    batch = torch.cat([torch.full((len(pos),), s) for s, pos in enumerate(parts)])
    pos = torch.cat(parts)
    for cap in (None, 3):
        expected, first = [], 0
        for structure, part in enumerate(parts):
            options = {"cell": cells[structure], "pbc": pbc[structure], "max_neighbors": cap}
            alone = edges_of(radius_graph(part, 2.2, **options))
            assert len(alone) > 0 or len(part) == 0
            expected += [(i + first, j + first, *o) for i, j, *o in alone]
            first += len(part)
        together = radius_graph(pos, 2.2, batch=batch, cell=cells, pbc=pbc, max_neighbors=cap)
        assert edges_of(together) == expected
        if cap is None:
            order = torch.randperm(len(pos), generator=torch.Generator().manual_seed(0))
            moved = edges_of(radius_graph(pos[order], 2.2, batch=batch[order], cell=cells, pbc=pbc))
            assert sorted((int(order[i]), int(order[j]), *o) for i, j, *o in moved) == expected


def test_open_batches_need_no_cell(search):
    pos, batch = torch.randn(40, 3), torch.arange(40) % 3
    near = (pos[:, None].double() - pos.double()).norm(dim=-1) < 1.5
    allowed = near & (batch[:, None] == batch) & ~torch.eye(40, dtype=torch.bool)
    assert edges_of(radius_graph(pos, 1.5, batch=batch)) == [(i, j, 0, 0, 0) for i, j in allowed.nonzero().tolist()]


@pytest.mark.parametrize("far", [1e5, 1e12, 1e300])
def test_points_far_away_have_no_neighbours(search, far):
    apart = torch.tensor([[far, -far, far], [-far, far, 0.0]], dtype=torch.float64)
    pos = torch.cat((apart, torch.randn(20, 3).double()))
    near = edges_of(radius_graph(pos[2:], 1.5))
    assert edges_of(radius_graph(pos, 1.5)) == [(i + 2, j + 2, *o) for i, j, *o in near]
    assert len(near) > 0


def test_nothing_and_a_single_atom(search):
    none = radius_graph(torch.zeros(0, 3), 2.0)
    assert none[0].shape == (2, 0)
    assert none[1].shape == (0, 3)
    for cell in (None, 10 * torch.eye(3)):
        assert radius_graph(torch.ones(1, 3), 2.0, cell=cell)[0].shape == (2, 0)
    empty = torch.zeros(0, 3, dtype=torch.long)
    assert radius_graph(torch.zeros(0, 3), 2.0, batch=empty[:, 0], cell=torch.zeros(0, 3, 3))[1].shape == (0, 3)


def test_periodic_is_what_a_cell_means():
    pos, cell = torch.rand(3, 3), torch.eye(3)
    default = edges_of(radius_graph(pos, 1.1, cell=cell))
    assert default == edges_of(radius_graph(pos, 1.1, cell=cell, pbc=True))
    assert default != edges_of(radius_graph(pos, 1.1, cell=cell, pbc=False))


def test_inputs_that_carry_gradients(search):
    pos, cell = torch.rand(4, 3).double().requires_grad_(), torch.eye(3).double().requires_grad_()
    edge_index, offsets = radius_graph(pos, 1.2, cell=cell)
    assert not offsets.requires_grad
    # The vectors that the model makes of them are differentiable.
    vectors = pos[edge_index[0]] + offsets.double() @ cell - pos[edge_index[1]]
    assert vectors.norm(dim=-1).max() < 1.2
    assert all(
        g.abs().max() > 0 for g in torch.autograd.grad(vectors.square().sum(), (cell, pos), allow_unused=True)[:1]
    )


@pytest.mark.parametrize("kind", [{}, {"l2_dist_attention": False}])
def test_a_model_does_not_see_which_image_an_atom_is_given_as(search, kind):
    model = build(valid_radius=2.0, **kind)
    g = torch.Generator().manual_seed(1)
    cell = random_cell(g, 2.0)
    feats, pos = torch.randn(3, 5).double(), torch.rand(3, 3, generator=g, dtype=torch.float64) @ cell
    moved = pos + torch.tensor([[1.0, 0, -2], [0, 3, 0], [-1, -1, 5]]).double() @ cell

    def out(pos: Tensor) -> Tensor:
        edge_index, offsets = radius_graph(pos, 2.0, cell=cell)
        return model(feats, pos, edge_index=edge_index, cell=cell, cell_offsets=offsets).type1

    assert (out(pos) - out(moved)).abs().max() < 10 * tolerances.ISOLATION
    assert out(pos).abs().max() > 1e-2


NAN = float("nan")
POS, CELL = torch.rand(4, 3), torch.eye(3)
BAD = [
    ({"pos": [[0, 0, 0]]}, TypeError, ["pos", "list"]),
    ({"pos": torch.zeros(4, 2)}, ValueError, ["pos", "(4, 2)"]),
    ({"pos": torch.zeros(4, 3).long()}, TypeError, ["pos", "int64"]),
    ({"pos": torch.tensor([[0, 0, 0], [1, NAN, 0]])}, ValueError, ["pos", "finite", "nan"]),
    ({"cutoff": 0.0}, ValueError, ["cutoff", "0"]),
    ({"cutoff": -1.0}, ValueError, ["cutoff", "-1.0"]),
    ({"cutoff": NAN}, ValueError, ["cutoff", "nan"]),
    ({"cutoff": math.inf}, ValueError, ["cutoff", "inf"]),
    ({"max_neighbors": 0}, ValueError, ["max_neighbors", "0"]),
    ({"max_neighbors": 1.5}, TypeError, ["max_neighbors", "1.5"]),
    ({"batch": torch.zeros(3).long()}, ValueError, ["batch", "(3,)", "(4,)"]),
    ({"batch": torch.ones(4).long(), "cell": CELL}, ValueError, ["batch", "0 … 0"]),
    ({"cell": CELL.expand(2, 3, 3)}, ValueError, ["batch is missing", "2 structures"]),
    ({"cell": torch.eye(2)}, ValueError, ["cell", "(2, 2)"]),
    ({"cell": NAN * CELL}, ValueError, ["cell", "finite"]),
    ({"pbc": True}, ValueError, ["cell is missing", "pbc"]),
    ({"cell": CELL, "pbc": [True, False]}, ValueError, ["pbc", "(1, 2)"]),
    ({"cell": CELL, "pbc": [2, 0, 0]}, ValueError, ["pbc", "0/1"]),
    ({"cell": 0 * CELL}, ValueError, ["cell", "structure 0", "no volume"]),
    ({"cell": torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])}, ValueError, ["cell", "no volume"]),
    ({"cell": torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]])}, ValueError, ["cell", "no volume"]),
    ({"pos": torch.tensor([[0.5, 0, 0], [0, 0, 0], [0.5, 0, 0]])}, ValueError, ["on top of each other", "0 and 2"]),
    (
        {"pos": torch.tensor([[0.0, 0.5, 0], [1.0, 0.5, 0]]), "cell": CELL},
        ValueError,
        ["on top of each other", "[-1, 0, 0]"],
    ),
    ({"cell": 1e-3 * CELL}, ValueError, ["cutoff = 1.0", "too large", "edges", "4 points"]),
    ({"cell": CELL, "cutoff": 1e6}, ValueError, ["cutoff = 1000000.0", "too large"]),
    ({"pos": torch.rand(20000, 3)}, ValueError, ["cutoff = 1.0", "too large", "20000 points"]),
]


@pytest.mark.parametrize("index", range(len(BAD)))
@pytest.mark.unchecked
def test_errors(search, index):
    change, error, words = BAD[index]
    with pytest.raises(error) as caught:
        radius_graph(**{"pos": POS, "cutoff": 1.0, **change})
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value!s}"


def test_the_expected_number_of_edges_is_about_right(monkeypatch):
    """Refused at half of what there are, not at twice: crystals, slabs and clouds."""
    g = torch.Generator().manual_seed(0)
    pos = 8 * torch.rand(1500, 3, generator=g, dtype=torch.float64)
    flat = pos * torch.tensor([1.0, 1.0, 0.1])
    cell = 8 * torch.eye(3).double()
    for points, pbc in ((pos, True), (pos, False), (flat, [True, True, False]), (flat, False)):
        monkeypatch.setattr(periodic, "MOST", 10**8)
        count = radius_graph(points, 2.0, cell=cell, pbc=pbc)[0].shape[1]
        monkeypatch.setattr(periodic, "MOST", count // 2)
        with pytest.raises(ValueError, match=re.escape("cutoff = 2.0 is too large")):
            radius_graph(points, 2.0, cell=cell, pbc=pbc)
        monkeypatch.setattr(periodic, "MOST", 3 * count)
        radius_graph(points, 2.0, cell=cell, pbc=pbc)


def test_nothing_is_imported_that_was_not_asked_for():
    """The package alone brings neither ase nor vesin, nor this folder."""
    code = "import sys, equiformer_pytorch; print({'ase', 'vesin'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
