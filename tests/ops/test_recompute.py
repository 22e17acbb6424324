"""Functions computed again in the backward pass give what they would have given."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.ops import recompute
from equiformer_pytorch.ops.recompute import product_in_pieces, recomputed
from equiformer_pytorch.testing import assert_gradients
from tests.models import total
from tests.ops.graphs import normal


def one(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).tanh() * x.square()


def several(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The second hangs on the weight alone."""
    return (x @ weight).sin(), weight.exp()


def derivatives(function: Callable[..., Any], leaves: list[Tensor], orders: int = 3) -> list[Tensor]:
    """Values, and so many derivatives, each of a function of the one before."""
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in leaves]
    wanted = [x for x in leaves if x.requires_grad]
    results = function(*leaves)
    found = list(results if isinstance(results, tuple) else (results,))
    loss = total(x.sin().sum() for x in found)
    for _ in range(orders):
        slopes = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
        found += slopes
        loss = total(slope.square().sum() for slope in slopes)
    return found


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for x, exact in zip(found, wanted, strict=True):
        size = max(float(exact.detach().abs().max()), 1.0) if exact.numel() else 1.0
        torch.testing.assert_close(x, exact, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("function", [one, several])
@pytest.mark.parametrize("points", [0, 1, 4])
def test_recomputed(function: Callable[..., Any], points: int):
    leaves = [normal(points, 3), normal(3, 3, seed=1)]
    assert_same(derivatives(lambda *x: recomputed(function, *x), leaves), derivatives(function, leaves))
    if points:
        assert_gradients(
            lambda x, weight: recomputed(function, x, weight), {"x": leaves[0], "weight": leaves[1]}, fast=points > 1
        )


def test_recomputed_of_some_gradients_and_of_integers():
    x, weight, index = normal(4, 3), normal(3, 3, seed=1), torch.tensor([1, 1, 3])

    def function(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        return one(x, weight).index_select(0, index)

    wanted = derivatives(function, [x, weight, index], 2)
    assert_same(derivatives(lambda *given: recomputed(function, *given), [x, weight, index], 2), wanted)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(recomputed(function, leaf, weight, index).sin().sum(), leaf)
    torch.testing.assert_close(slope, wanted[1], rtol=0, atol=1e-13)
    assert not recomputed(function, x, weight, index).requires_grad


def test_a_result_that_hangs_on_nothing():
    """Its gradients are zero, as those of every tensor that does not matter."""
    x, weight = normal(2, 3).requires_grad_(), normal(3, 3).requires_grad_()
    found = recomputed(lambda x, weight: x.sin(), x, weight)
    slopes = torch.autograd.grad(found.sum(), (x, weight), create_graph=True)
    torch.testing.assert_close(slopes[0], x.cos())
    assert slopes[1].abs().max() == 0


class Held:
    """A tensor for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_by(function: Callable[[], Any]) -> list[Tensor]:
    """What the graph of the result holds for the backward pass, once the result is there."""
    held: list[weakref.ref[Held]] = []

    def pack(x: Tensor) -> Held:
        kept = Held(x)
        held.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        result = function()
    found = [kept.tensor for reference in held if (kept := reference()) is not None]
    del result
    return found


def test_only_what_is_given_is_kept():
    """For the backward pass, and by it for the next one."""
    x, weight = normal(4, 3).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    kept = kept_by(lambda: recomputed(one, x, weight))
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr()}
    result = recomputed(one, x, weight)
    slope = torch.ones_like(result, requires_grad=True)
    kept = kept_by(lambda: torch.autograd.grad(result, (x, weight), slope, create_graph=True))
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr(), slope.data_ptr()}


# Products in pieces: A of each row times (B, C) of rows, of rows and shared tensors, and A shared by all


def of_rows(left: Tensor, right: Tensor, index: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
    return left.sin(), right * 2, shared.index_select(0, index).square()


def of_shared(left: Tensor, right: Tensor, index: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
    """A is one for all, without gradient."""
    return MATRIX, right.tanh() + left.mean((1, 2), keepdim=True) * shared.index_select(0, index)


MATRIX = normal(3, 4, seed=7)
FACTORS = {"of rows": of_rows, "one for all": of_shared}


def arguments(rows: int) -> tuple[list[Tensor], list[Tensor]]:
    index = torch.arange(rows) % 2
    return [normal(rows, 3, 4), normal(rows, 4, 2, seed=1), index], [normal(2, 4, 2, seed=2)]


def plainly(factors: Callable[..., tuple[Tensor, ...]], *given: Tensor) -> Tensor:
    matrix, *others = factors(*given)
    return torch.cat([matrix @ other for other in others], dim=2)


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("name", FACTORS)
def test_product_in_pieces(monkeypatch: pytest.MonkeyPatch, name: str, size: int, rows: int):
    monkeypatch.setattr(recompute, "PIECE", size)
    factors, (split, shared) = FACTORS[name], arguments(rows)
    seen: list[int] = []

    def watched(*given: Tensor) -> tuple[Tensor, ...]:
        seen.append(given[0].shape[0])
        return factors(*given)

    found = derivatives(lambda *x: product_in_pieces(watched, x[:3], x[3:], 1), split + shared)
    assert max(seen) == min(size, rows)
    assert_same(found, derivatives(lambda *x: plainly(factors, *x), split + shared))


@pytest.mark.parametrize("name", FACTORS)
def test_gradients_of_products_in_pieces(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(recompute, "PIECE", 2)
    (left, right, index), (shared,) = arguments(3)

    def function(left: Tensor, right: Tensor, shared: Tensor) -> Tensor:
        return product_in_pieces(FACTORS[name], (left, right, index), (shared,), 1)

    assert_gradients(function, {"left": left, "right": right, "shared": shared})


def test_pieces_are_of_so_many_numbers_and_so_many_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recompute, "PIECE", 12)
    (split, shared), seen = arguments(7), []

    def sizes(width: int, least: int) -> list[int]:
        seen.clear()
        product_in_pieces(lambda *x: seen.append(len(x[0])) or of_rows(*x), tuple(split), tuple(shared), width, least)
        return list(seen)

    assert sizes(4, 1) == [3, 3, 1]
    assert sizes(100, 1) == [1] * 7
    assert sizes(100, 4) == [4, 3]
    assert sizes(0, 1) == [7]


def test_of_products_only_what_is_given_is_kept():
    split, shared = arguments(5)
    given = [x.requires_grad_() if x.is_floating_point() else x for x in (*split, *shared)]
    kept = kept_by(lambda: product_in_pieces(of_rows, tuple(given[:3]), tuple(given[3:]), 1))
    assert {t.data_ptr() for t in kept} == {x.data_ptr() for x in given}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    monkeypatch.setattr(recompute, "PIECE", 2)
    split, shared = arguments(5)
    exact = plainly(of_rows, *split, *shared)
    given = [x.to(dtype).requires_grad_() if x.is_floating_point() else x for x in (*split, *shared)]
    found = product_in_pieces(of_rows, tuple(given[:3]), tuple(given[3:]), 1)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() < (1e-5 if dtype == torch.float32 else 0.2)
    floats = [x for x in given if x.requires_grad]
    assert {x.dtype for x in torch.autograd.grad(found.float().sum(), floats)} == {dtype}
    assert recomputed(one, given[0][0][:, :3], given[0][1][:, :3]).dtype == dtype


def test_transforms(monkeypatch: pytest.MonkeyPatch):
    """grad is autograd's, and vmap is a loop."""
    monkeypatch.setattr(recompute, "PIECE", 2)
    (left, right, index), (shared,) = arguments(5)
    lefts = torch.stack([left, left.cos()])

    def product(left: Tensor) -> Tensor:
        return product_in_pieces(of_rows, (left, right, index), (shared,), 1).square().sum()

    def again(left: Tensor) -> Tensor:
        return recomputed(one, left[:, :, :3], left[:, :, 1:].mT @ left[:, :, 1:]).square().sum()

    for function in (product, again):
        leaf = lefts.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(total(function(part) for part in leaf), leaf)
        torch.testing.assert_close(vmap(grad(function))(lefts), wanted)
        torch.testing.assert_close(vmap(function)(lefts), torch.stack([function(part) for part in lefts]))
