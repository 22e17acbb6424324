"""Products of components beside the same, one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.ops.components import component_products
from tests.models import total
from tests.ops.graphs import normal

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-1}
ADDED = ["nothing", "bias", "feature"]


def case(added: str, beside: bool, points: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    """Three components of two channels."""
    given: list[Tensor | None] = [normal(points, 3, 2), normal(3, 2, 4, seed=1), None, None, None]
    if added != "nothing":
        given[2] = normal(1 if added == "bias" else points, 3, 4, seed=2)
    if beside:
        given[3:] = [normal(2, 3, seed=3), normal(3, seed=4) if added == "bias" else None]
    return [None if tensor is None else tensor.to(dtype) for tensor in given]


def one_by_one(x, matrices, added=None, beside=None, added_beside=None):
    columns = [x[:, k] @ matrix for k, matrix in enumerate(matrices)]
    found = torch.stack(columns, dim=1) + (0 if added is None else added)
    if beside is None:
        return found, None
    return found, x[:, 0] @ beside + (0 if added_beside is None else added_beside)


def loss(found: tuple[Tensor, Tensor | None]) -> Tensor:
    return total((part * part.sin()).sum() for part in found if part is not None)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("points", [0, 1, 5])
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("added", ADDED)
def test_values(added: str, beside: bool, points: int, dtype: torch.dtype):
    wanted = one_by_one(*case(added, beside, points))
    found = component_products(*case(added, beside, points, dtype))  # pyright: ignore[reportArgumentType]
    assert (found[1] is None) == (not beside)
    for one, other in zip(found[: 1 + beside], wanted, strict=False):
        assert one is not None
        assert one.dtype == dtype
        assert one.is_contiguous(), "points first"
        torch.testing.assert_close(one.double(), other, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("added", ADDED)
def test_derivatives_of_three_orders(added: str, beside: bool):
    orders = []
    for function in (component_products, one_by_one):
        given = case(added, beside)
        leaves = [tensor.requires_grad_() for tensor in given if tensor is not None]
        value, found = loss(function(*given)), []  # pyright: ignore[reportArgumentType]
        for order in range(3):
            slopes = torch.autograd.grad(value, leaves, create_graph=order < 2)
            found += slopes
            value = total((slope * slope.sin()).sum() for slope in slopes)
        orders.append(found)
    for one, other in zip(*orders, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("create_graph", [True, False])
def test_only_what_is_wanted(create_graph: bool):
    for place in range(5):
        slopes = []
        for function in (component_products, one_by_one):
            given = [
                tensor.requires_grad_(k == place) for k, tensor in enumerate(case("bias", True)) if tensor is not None
            ]
            slopes += torch.autograd.grad(loss(function(*given)), given[place], create_graph=create_graph)
        torch.testing.assert_close(*slopes)


def test_gradients_lie_as_the_feature_does():
    x, matrices, added, beside, added_beside = case("bias", True)
    assert x is not None
    wide = normal(5, 9).requires_grad_()
    found = component_products(wide[:, 3:].unflatten(1, (3, 2)), matrices, added, beside, added_beside)  # pyright: ignore[reportArgumentType]
    wanted = one_by_one(wide[:, 3:].unflatten(1, (3, 2)), matrices, added, beside, added_beside)
    torch.testing.assert_close(*(torch.autograd.grad(loss(y), wide)[0] for y in (found, wanted)))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(loss(component_products(x, matrices)), x)  # pyright: ignore[reportArgumentType]
    assert slope.is_contiguous()


def test_transforms_batches_and_autocast():
    x, *rest = case("bias", True)
    assert x is not None

    def of_input(x: Tensor, function=component_products) -> Tensor:
        return loss(function(x, *rest))

    torch.testing.assert_close(grad(of_input)(x), grad(lambda x: of_input(x, one_by_one))(x))
    many = torch.stack((x, 2 * x))
    torch.testing.assert_close(vmap(of_input)(many), torch.stack([of_input(one) for one in many]))
    leaf = x.clone().requires_grad_()
    found, _ = component_products(leaf, *rest)  # pyright: ignore[reportArgumentType]
    along = normal(3, *found.shape, seed=7)
    (batched,) = torch.autograd.grad(found, leaf, along, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(found, leaf, one, retain_graph=True)[0] for one in along]
    torch.testing.assert_close(batched, torch.stack(alone))
    with torch.autocast("cpu", torch.bfloat16):
        mapped, _ = component_products(*case("nothing", True, dtype=torch.float32))  # pyright: ignore[reportArgumentType]
    assert mapped.dtype == torch.bfloat16
