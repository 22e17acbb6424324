"""No geometry ends the process, and whichever search is taken finds the same: others than usual, in a process apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from equiformer_pytorch.atoms import radius_graph
from equiformer_pytorch.graph import pairs, periodic

pytest.importorskip("vesin", reason="needs the extra atoms")

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def spread(count: int, *extent: float, origin: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, generator=g, dtype=torch.float64) * torch.tensor(extent, dtype=torch.float64) + origin


def alone(place: float) -> Tensor:
    return torch.full((1, 3), place, dtype=torch.float64)


def box(*edges: float) -> Tensor:
    return torch.diag(torch.tensor(edges, dtype=torch.float64))


def skewed(shear: float, edge: float = 4.0) -> Tensor:
    cell = box(edge, edge, edge)
    cell[1, 0] = cell[2, 1] = shear
    return cell


Case = tuple[Tensor, float, dict]
CASES: dict[str, Callable[[], Case]] = {
    "two far apart": lambda: (torch.tensor([[0, 0, 0], [2e3, 2e3, 2.0]]), 5.0, {}),
    "a sheet": lambda: (spread(200, 2e3, 2e3, 1), 5.0, {}),
    "a dense sheet": lambda: (spread(3000, 300, 300, 0.5), 5.0, {}),
    "a line": lambda: (spread(300, 1e6, 0, 0), 5.0, {}),
    "a diagonal": lambda: (spread(300, 1, 1, 1).sort(0).values[:, :1] * 1e7 * torch.ones(3).double(), 5.0, {}),
    "one at 1e6": lambda: (torch.cat((spread(50, 8, 8, 8), alone(1e6))), 5.0, {}),
    "one at 1e12": lambda: (torch.cat((spread(50, 8, 8, 8), alone(-1e12))), 5.0, {}),
    "one at 1e300": lambda: (torch.cat((spread(500, 30, 30, 30), alone(1e300))), 5.0, {}),
    "clusters far apart": lambda: (torch.cat([spread(60, 6, 6, 6, origin=o) for o in (0, 1e5, -1e9, 1e11)]), 4.0, {}),
    "far from the origin": lambda: (spread(200, 12, 12, 12, origin=1e9), 4.0, {}),
    "a crystal far away": lambda: (spread(60, 9, 9, 9, origin=1e7), 4.0, {"cell": box(9, 9, 9)}),
    "an unwrapped trajectory": lambda: (spread(60, 1e6, 1e6, 1e6), 4.0, {"cell": skewed(1.5, 9)}),
    "needle": lambda: (spread(40, 4, 4, 1e6), 5.0, {"cell": box(4, 4, 1e6)}),
    "needle along x": lambda: (spread(40, 1e6, 4, 4), 5.0, {"cell": box(1e6, 4, 4)}),
    "plate": lambda: (spread(40, 1e4, 1e4, 3), 5.0, {"cell": box(1e4, 1e4, 3)}),
    "wide box": lambda: (spread(40, 9, 9, 9), 5.0, {"cell": box(1e7, 1e7, 1e7)}),
    "open needle": lambda: (spread(40, 4, 4, 1e6), 5.0, {"cell": box(4, 4, 4), "pbc": [True, True, False]}),
    "open sheet": lambda: (spread(40, 4, 2e4, 2e4), 5.0, {"cell": box(4, 4, 4), "pbc": [True, False, False]}),
    "sheared": lambda: (spread(12, 4, 4, 4), 4.0, {"cell": skewed(40.0)}),
    "sheared much": lambda: (spread(2, 4, 4, 4), 3.0, {"cell": skewed(150.0)}),
    "sharp angles": lambda: (spread(5, 3, 3, 3), 4.0, {"cell": 3.9 + box(0.3, 0.3, 0.3)}),
    "tiny cell": lambda: (spread(1, 0, 0, 0), 3.0, {"cell": box(0.2, 0.2, 0.2)}),
    "tiny needle": lambda: (spread(3, 0.2, 0.2, 1e4), 4.0, {"cell": box(0.2, 0.2, 1e4)}),
    "tiny cutoff": lambda: (spread(100, 50, 50, 50), 1e-3, {"cell": box(50, 50, 50)}),
    "huge cutoff": lambda: (spread(100, 50, 50, 50), 1e5, {}),
    "1e-6 of everything": lambda: (1e-6 * spread(50, 9, 9, 9), 4e-6, {"cell": 1e-6 * box(9, 9, 9)}),
    "1e9 of everything": lambda: (1e9 * spread(50, 9, 9, 9), 4e9, {"cell": 1e9 * box(9, 9, 9)}),
    "left-handed": lambda: (spread(40, 6, 6, 6), 4.0, {"cell": box(6, -6, 6)}),
    "float32": lambda: (spread(200, 2e3, 2e3, 1).float(), 5.0, {}),
    "structures of all kinds": lambda: (
        torch.cat((spread(200, 2e3, 2e3, 1), spread(150, 9, 9, 9), spread(30, 4, 4, 1e6))),
        5.0,
        {
            "batch": torch.tensor([2, 0, 1]).repeat_interleave(torch.tensor([200, 150, 30])),
            "cell": torch.stack((box(9, 9, 9), box(4, 4, 1e6), box(1, 1, 1))),
            "pbc": torch.tensor([[True] * 3, [True] * 3, [False] * 3]),
        },
    ),
}  # fmt: skip

PROGRAM = """
import sys, torch
from equiformer_pytorch.atoms import radius_graph
from equiformer_pytorch.graph import periodic
from tests.graph.test_any_geometry import CASES
periodic.FEW_OPEN = periodic.FEW_EACH = 0  # ask vesin wherever it may be asked
found = {}
for name, make in CASES.items():
    print(name, flush=True)
    pos, cutoff, options = make()
    found[name] = radius_graph(pos, cutoff, **options)
torch.save(found, sys.argv[1])
"""


@pytest.fixture(scope="module")
def with_vesin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    path = tmp_path_factory.mktemp("found") / "edges.pt"
    command = [sys.executable, "-c", PROGRAM, path]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode} at {done.stdout.splitlines()[-1:]}: {done.stderr}"
    return torch.load(path)


@pytest.mark.xdist_group("vesin")
@pytest.mark.parametrize("name", CASES)
def test_the_same_with_vesin_and_without(name, with_vesin, monkeypatch):
    monkeypatch.setitem(sys.modules, "vesin", None)
    pos, cutoff, options = CASES[name]()
    edge_index, offsets = radius_graph(pos, cutoff, **options)
    assert torch.equal(with_vesin[name][0], edge_index)
    assert torch.equal(with_vesin[name][1], offsets)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("tiny cell", "huge cutoff", "a dense sheet")])
def test_among_all_and_by_cells(name, monkeypatch):
    """Both of the plain ways, in several windows."""
    monkeypatch.setitem(sys.modules, "vesin", None)
    monkeypatch.setattr(periodic, "FEW_OPEN", 0)
    pos, cutoff, options = CASES[name]()
    found = []
    for few in (0, 2**40):
        monkeypatch.setattr(pairs, "FEW_PAIRS", few)
        monkeypatch.setattr(pairs, "WINDOW", 10_000)
        found.append(radius_graph(pos, cutoff, **options))
        monkeypatch.setattr(pairs, "WINDOW", 2**22)
        found.append(radius_graph(pos, cutoff, **options))
    for edge_index, offsets in found[1:]:
        assert torch.equal(found[0][0], edge_index)
        assert torch.equal(found[0][1], offsets)


def test_edges_are_there():
    """The cases are not about nothing."""
    cases = [make() for make in CASES.values()]
    assert sum(radius_graph(pos, cutoff, **options)[0].numel() > 0 for pos, cutoff, options in cases) > 0.7 * len(CASES)


@pytest.mark.parametrize("vesin", [True, False])
def test_a_crowd_beside_an_outlier_is_refused(vesin, monkeypatch):
    """The density of the whole says little then: edges are counted while they are found."""
    if not vesin:
        monkeypatch.setitem(sys.modules, "vesin", None)
    monkeypatch.setattr(periodic, "MOST", 10**6)
    pos = torch.cat((spread(2000, 2, 2, 2), alone(1e5)))
    with pytest.raises(ValueError, match=r"cutoff = 5\.0 is too large: more than .* edges"):
        radius_graph(pos, 5.0)


def test_lost_in_space():
    """So far from its cell that nothing is known of the place in it."""
    with pytest.raises(ValueError, match=r"pos must be near its cell, got point 1 at \[1e\+30, 0\.0, 0\.0\]"):
        radius_graph(torch.tensor([[0, 0, 0], [1e30, 0, 0]], dtype=torch.float64), 2.0, cell=box(3, 3, 3))
