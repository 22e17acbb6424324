"""Checks of values: together in one wait, switched off, and through the transforms of torch.func."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

import equiformer_pytorch
from equiformer_pytorch.base import checks
from equiformer_pytorch.base.checks import together, unchecked_values

BAD = torch.tensor([[0.0, torch.nan]])


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the answers to questions were waited for."""
    seen, settle = [], checks.Together.settle
    monkeypatch.setattr(checks.Together, "settle", lambda self: (seen.append(len(self._asked)), settle(self)))
    return seen


def test_one_wait_for_all(waits: list[int]) -> None:
    batch, edges = torch.tensor([0, 2, 1]), torch.tensor([[0, 1], [1, 2]])
    with together() as gathered:
        checks.check_finite("pos", torch.zeros(3, 3), "atom")
        checks.check_range(edges, 3)
        checks.check_tokens("tokens", batch, 3)
        checks.as_bool("mask", torch.ones(3))
        count, ascending = gathered.number(batch.max() + 1), gathered.number((batch.diff() >= 0).all())
        assert waits == []
    assert (count.value, ascending.value) == (3, 0)
    assert waits == [1]


def test_the_first_that_fails_is_named() -> None:
    far = torch.tensor([[0, 7], [1, 0]])

    def look(pos: Tensor, edges: Tensor) -> None:
        with together():
            checks.check_finite("pos", pos, "atom")
            checks.check_range(edges, 3)
            torch.zeros(3)[torch.tensor([7])]  # fails, though not for this reason if an edge is wrong

    with pytest.raises(ValueError, match=r"pos must be finite for every atom, got \[0.0, nan\]"):
        look(BAD, far)
    with pytest.raises(ValueError, match=r"edge_index must lie in 0 … 2 for 3 points, got values from 0 to 7"):
        look(torch.zeros(3, 3), far)
    with pytest.raises(IndexError):
        look(torch.zeros(3, 3), far[:, :0])


def test_edges_are_looked_at_while_their_range_is_not_known() -> None:
    edges = torch.tensor([[0, 7], [1, -4]])

    def look(points: int) -> None:
        with together():
            checks.check_range(edges, points)
            checks.check_edges(edges[0], edges[1], None, torch.zeros(points).long(), torch.arange(points))

    with pytest.raises(ValueError, match="edge_index must lie in 0 … 2"):
        look(3)
    with pytest.raises(ValueError, match=r"edge_index must lie in 0 … -1"):
        look(0)


def test_blocks_do_not_see_each_other(waits: list[int]) -> None:
    with together():
        checks.check_finite("a", torch.zeros(2), "atom")
        with pytest.raises(ValueError, match="b must be finite"), together():
            checks.check_finite("b", BAD, "atom")
        checks.check_finite("c", torch.zeros(2), "atom")
    assert waits == [1, 1]


def test_switched_off(waits: list[int]) -> None:
    bad, far = torch.full((3, 3), torch.nan), torch.tensor([[0, 9], [0, 1]])
    with unchecked_values(), together():
        checks.check_finite("pos", bad, "atom")
        checks.check_range(far, 3)
        checks.check_range(far, 0)
        checks.check_tokens("tokens", far, 2)
        checks.check_offsets(bad[:2] + 0.5, 2)
        checks.check_edges(far[0], far[1], None, far.new_zeros(3), torch.arange(3))
        checks.check_batch(far[0], 2, 1)
        assert checks.as_bool("mask", torch.full((2,), 2.0)).tolist() == [True, True]
    assert sum(waits) == 0
    with pytest.raises(ValueError, match="pos"):
        checks.check_finite("pos", bad, "atom")
    with unchecked_values(), pytest.raises(TypeError, match="edge_index must be integers"):
        checks.check_integers("edge_index", bad, (3, 3), "")


def test_switched_off_in_one_thread_alone() -> None:
    errors: list[Exception] = []

    def other() -> None:
        try:
            checks.check_finite("pos", BAD, "atom")
        except ValueError as error:
            errors.append(error)

    with equiformer_pytorch.unchecked_values():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with unchecked_values():
            pass
        checks.check_finite("pos", BAD, "atom")
    assert len(errors) == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("bad", [False, True])
def test_in_transforms(bad: bool) -> None:
    """Values are known in grad, jvp and jacrev, and for all of a vmap at once."""
    x = torch.tensor([[0.5, 1.0], [2.0, torch.inf if bad else 3.0]])

    def function(x: Tensor) -> Tensor:
        with together() as gathered:
            checks.check_finite("x", x, "row")
            count = gathered.number(torch.tensor(3))
        return (x * count.value).square().sum()

    def loop(transform) -> None:
        if bad:
            with pytest.raises(ValueError, match=r"x must be finite for every row, got \[2.0, inf\]"):
                transform()
        else:
            transform()

    loop(lambda: torch.func.grad(function)(x))
    loop(lambda: torch.func.jvp(function, (x,), (x,)))
    loop(lambda: torch.func.hessian(function)(x))
    loop(lambda: torch.func.jacrev(torch.func.grad(function))(x))
    loop(lambda: torch.func.vmap(torch.func.grad(function), in_dims=1)(torch.stack((x, x), 1)))
