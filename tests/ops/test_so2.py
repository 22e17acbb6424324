"""Products that commute with rotations about the edge, beside complex matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from equiformer_pytorch.ops import so2
from equiformer_pytorch.ops.so2 import Block, BlockPlan, so2_product
from equiformer_pytorch.testing import assert_gradients
from tests.models import total
from tests.ops.graphs import normal
from tests.ops.plans import PLANS, SINGLE, arguments, written_out

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.3}


def product(plan: BlockPlan, given: dict[str, Any]) -> tuple[Tensor, ...]:
    """With one input: as layers call it; with several: as its own derivatives do."""
    if len(plan.sources) == 1:
        return so2_product(given["inputs"][0], given["scales"], given["matrices"], given["biases"], plan)
    return so2._product(given["inputs"], given["scales"], given["matrices"], given["biases"], plan)


def leaves_of(given: dict[str, Any]) -> list[Tensor]:
    scales = [] if given["scales"] is None else [given["scales"]]
    return [*given["inputs"], *scales, *given["matrices"], *given["biases"]]


def rebuilt(given: dict[str, Any], leaves: list[Tensor]) -> dict[str, Any]:
    rest = list(leaves)
    inputs = [rest.pop(0) for _ in given["inputs"]]
    scales = None if given["scales"] is None else rest.pop(0)
    return {
        "inputs": inputs,
        "scales": scales,
        "matrices": [rest.pop(0) for _ in given["matrices"]],
        "biases": rest,
    }


@pytest.mark.parametrize("edges", [0, 1, 6])
@pytest.mark.parametrize("name", PLANS)
def test_values(name: str, edges: int):
    plan = PLANS[name]
    given = arguments(plan, edges)
    found, wanted = product(plan, given), written_out(**given, plan=plan)
    assert len(found) == len(plan.targets)
    for y, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(y, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PLANS)
def test_gradients_of_two_orders(name: str):
    plan = PLANS[name]
    given = arguments(plan, 3)
    names = [str(k) for k in range(len(leaves_of(given)))]

    def function(**leaves: Tensor) -> tuple[Tensor, ...]:
        return product(plan, rebuilt(given, list(leaves.values())))

    assert_gradients(function, dict(zip(names, leaves_of(given), strict=True)), fast=name not in ("orders", "sums"))


@pytest.mark.parametrize("edges", [0, 4])
@pytest.mark.parametrize("name", PLANS)
def test_derivatives_of_three_orders(name: str, edges: int):
    """Those of the definition, each of a function of the one before."""
    plan = PLANS[name]
    found = []
    for function in (product, lambda plan, given: written_out(**given, plan=plan)):
        given = arguments(plan, edges)
        leaves = [x.clone().requires_grad_() for x in leaves_of(given)]
        value = total(y.sin().sum() for y in function(plan, rebuilt(given, leaves)))
        derivatives = []
        for _ in range(3):
            slopes = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
            derivatives.append(slopes)
            value = total(slope.square().sum() for slope in slopes)
        found.append(derivatives)
    for order, (mine, exact) in enumerate(zip(*found, strict=True)):
        size = max(float(slope.detach().abs().max()) for slope in exact if slope.numel()) if edges else 1.0
        for slope, wanted in zip(mine, exact, strict=True):
            torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-12 * max(size, 1.0), msg=f"order {order + 1}")


@pytest.mark.parametrize("name", ["orders", "one block", "nothing comes out"])
def test_each_gradient_by_itself(name: str):
    """Whatever else needs none."""
    plan = PLANS[name]
    given = arguments(plan, 4)
    every = [x.clone().requires_grad_() for x in leaves_of(given)]
    loss = total(y.sin().sum() for y in written_out(**rebuilt(given, every), plan=plan))
    wanted = torch.autograd.grad(loss, every, materialize_grads=True)
    for chosen in range(len(every)):
        leaves = [x.clone().requires_grad_(k == chosen) for k, x in enumerate(leaves_of(given))]
        loss = total(y.sin().sum() for y in product(plan, rebuilt(given, leaves)))
        (found,) = torch.autograd.grad(loss, leaves[chosen])
        torch.testing.assert_close(found, wanted[chosen], rtol=0, atol=1e-12)


def test_only_the_arguments_are_kept():
    """For the backward pass: neither what is scaled nor sums of halves."""
    plan, kept = PLANS["orders"], []
    given = arguments(plan, 50)
    leaves = [x.requires_grad_() for x in leaves_of(given)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        product(plan, rebuilt(given, leaves))
    assert {x.data_ptr() for x in kept} <= {x.data_ptr() for x in leaves}


@pytest.mark.parametrize("name", SINGLE)
def test_pieces_are_the_whole(name: str):
    plan = PLANS[name]
    given = arguments(plan, 7)
    whole = product(plan, given)
    parts = []
    for rows in (slice(0, 3), slice(3, 3), slice(3, 7)):
        scales = None if given["scales"] is None else given["scales"][rows]
        parts.append(product(plan, {**given, "inputs": [given["inputs"][0][rows]], "scales": scales}))
    for y, *pieces in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(pieces), y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["orders", "shared scales", "sums"])
@pytest.mark.parametrize("dtype", CLOSE)
def test_dtypes(name: str, dtype: torch.dtype):
    plan = PLANS[name]
    exact = product(plan, arguments(plan, 20))
    given = arguments(plan, 20, dtype=dtype)
    leaves = [x.requires_grad_() for x in leaves_of(given)]
    found = product(plan, rebuilt(given, leaves))
    for y, wanted in zip(found, exact, strict=True):
        assert y.dtype == dtype
        assert (y.double() - wanted).abs().max() < CLOSE[dtype]
    for slope in torch.autograd.grad(total(y.float().sum() for y in found), leaves):
        assert slope.dtype == dtype
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", ["orders", "sums"])
def test_autocast(name: str):
    """Products in half precision, gradients in the dtype of what they belong to."""
    plan = PLANS[name]
    exact = product(plan, arguments(plan, 20))
    given = arguments(plan, 20, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in leaves_of(given)]
    with torch.autocast("cpu", torch.bfloat16):
        found = product(plan, rebuilt(given, leaves))
    for y, wanted in zip(found, exact, strict=True):
        assert 1e-6 < (y.double() - wanted).abs().max() < CLOSE[torch.bfloat16]
    assert {slope.dtype for slope in torch.autograd.grad(total(y.float().sum() for y in found), leaves)} == {
        torch.float32
    }


# Forward derivatives load torch's own deprecated parts.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["orders", "shared scales", "nothing comes out"])
def test_transforms(name: str):
    """grad is autograd's, jvp the derivative along a direction, and vmap a loop."""
    plan = PLANS[name]
    given = arguments(plan, 3)
    x = torch.stack([given["inputs"][0], normal(*given["inputs"][0].shape, seed=9)])

    def function(x: Tensor, matrices: list[Tensor]) -> Tensor:
        return total(y.sin().sum() for y in product(plan, {**given, "inputs": [x], "matrices": matrices}))

    leaves = [m.clone().requires_grad_() for m in given["matrices"]]
    wanted = torch.autograd.grad(function(x[0], leaves), leaves)
    torch.testing.assert_close(tuple(grad(function, argnums=1)(x[0], given["matrices"])), wanted)
    looped = torch.stack([function(part, given["matrices"]) for part in x])
    torch.testing.assert_close(vmap(lambda part: function(part, given["matrices"]))(x), looped)
    _, along = jvp(lambda x: function(x, given["matrices"]), (x[0],), (x[1],))[:2]
    slope = grad(function)(x[0], given["matrices"])
    torch.testing.assert_close(along, (slope * x[1]).sum())


def test_blocks_commute_with_turns_about_the_edge():
    """A turn by γ multiplies x₊ + i x₋ by e^{−imγ} or e^{imγ}; the product lets it through."""
    plan = BlockPlan((Block((0, 6), (0, 4), paired=True),), (6,), (4,))
    given = arguments(plan, 5)

    def turn(x: Tensor, angle: float) -> Tensor:
        c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        plus, minus = x.chunk(2, dim=1)
        return torch.cat((c * plus - s * minus, s * plus + c * minus), dim=1)

    (y,) = product(plan, given)
    for angle in (0.7, -2.0):
        (found,) = product(plan, {**given, "inputs": [turn(given["inputs"][0], angle)]})
        torch.testing.assert_close(found, turn(y, angle))


def test_transposed_plans():
    """Twice is the plan itself, without scales and biases; once, the product with the transposed matrices."""
    for name, plan in PLANS.items():
        given = arguments(plan, 4)
        slopes = [normal(4, width, seed=k) for k, width in enumerate(plan.targets)]
        found = so2._product(slopes, None, given["matrices"], (), plan.transposed())
        bare = BlockPlan(tuple(b._replace(bias=False) for b in plan.blocks), plan.sources, plan.targets)
        leaves = [x.clone().requires_grad_() for x in given["inputs"]]
        outputs = written_out(leaves, None, given["matrices"], [], bare)
        wanted = torch.autograd.grad(outputs, leaves, slopes)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12, msg=name)

        def of_one(*parts: Tensor, plan: BlockPlan = plan, matrices: list[Tensor] = given["matrices"]) -> Any:
            return so2._product([part[None] for part in parts], None, matrices, (), plan.transposed())

        traced = vmap(of_one)(*slopes)
        for one, other in zip(traced, wanted, strict=True):
            torch.testing.assert_close(one[:, 0], other, rtol=0, atol=1e-12, msg=name)
        bare = tuple(block._replace(bias=False) for block in plan.blocks)
        assert plan.transposed().transposed() == BlockPlan(bare, plan.sources, plan.targets)
