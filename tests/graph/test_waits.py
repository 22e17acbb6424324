"""How often a search for neighbours waits for the device, and that none of its tensors is on another one."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.counts import counted
from equiformer_pytorch.atoms import radius_graph


def waits(*args: Any, **kwargs: Any) -> Counter[str]:
    """Without views as arrays of numpy, which only tensors of the host have."""
    found = counted(lambda: radius_graph(*args, **kwargs)).waits
    del found["numpy"]
    return found


def points(count: int, *, density: float = 0.1) -> tuple[Tensor, Tensor]:
    """On a shaken lattice, and its cell."""
    side = round(count ** (1 / 3))
    edge = (count / density) ** (1 / 3)
    axis = torch.arange(side) * edge / side
    pos = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    return pos + 0.2 * torch.rand(pos.shape), edge * torch.eye(3)


def calls() -> dict[str, tuple[tuple, dict]]:
    small, cell = points(8)
    large, large_cell = points(12**3)
    batch = torch.arange(30).repeat_interleave(8)
    many = small.repeat(30, 1) + 0.01 * torch.rand(240, 3)
    return {
        "small": ((small, 4.0), {}),
        "small crystal": ((small, 4.0), {"cell": cell}),
        "small capped": ((small, 4.0), {"cell": cell, "pbc": [True, False, True], "max_neighbors": 3}),
        "batch": ((many, 4.0), {"batch": batch}),
        "batch of crystals": ((many, 4.0), {"batch": batch, "cell": cell.expand(30, 3, 3)}),
        "shuffled batch": ((many, 4.0), {"batch": batch.flip(0), "cell": cell.expand(30, 3, 3)}),
        "large": ((large, 4.0), {}),
        "large crystal": ((large, 4.0), {"cell": large_cell}),
        "large capped": ((large, 4.0), {"cell": large_cell, "max_neighbors": 10}),
    }


@pytest.fixture(params=["vesin", "torch"], autouse=True)
def _search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to search."""
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "vesin", None)
    else:
        pytest.importorskip("vesin")


@pytest.mark.parametrize("name", calls())
def test_few_waits(name: str) -> None:
    """Checks, sizes, candidates, edges, and closeness; a cap takes one more."""
    args, kwargs = calls()[name]
    seen = waits(*args, **kwargs)
    assert seen.total() <= 5 + (kwargs.get("max_neighbors") is not None), seen


@pytest.mark.parametrize("name", calls())
def test_nothing_is_made_on_the_default_device(name: str) -> None:
    args, kwargs = calls()[name]
    expected = radius_graph(*args, **kwargs)
    with torch.device("meta"):
        found = radius_graph(*args, **kwargs)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
