"""Sums and products of heads, and gates of messages, beside loops over receivers, heads, degrees and components."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.ops.gates import gate_messages
from equiformer_pytorch.ops.heads import HeadPlan, head_products, head_sums
from tests.ops.graphs import normal

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}
PLANS = {
    "one degree": HeadPlan((2,), 3, ((0, 1),)),
    "one group": HeadPlan((2, 2, 2), 2, ((0, 3),)),
    "groups": HeadPlan((3, 1, 1, 2), 2, ((0, 1), (1, 3), (3, 4))),
    "finer than need be": HeadPlan((2, 2), 2, ((0, 1), (1, 2))),
}


def places(plan: HeadPlan) -> list[tuple[int, int, int, int]]:
    """(head, component, first column of a message, first column of the features), in the order of the features."""
    found, column = [], 0
    for low, high in plan.groups:
        for head in range(plan.heads[low]):
            for degree in range(low, high):
                for component in range(degree**2, (degree + 1) ** 2):
                    found.append((sum(plan.heads[:degree]) + head, component, component * plan.channels, column))
                    column += plan.channels
    return found


def plain_sums(weights: Tensor, messages: Tensor, plan: HeadPlan) -> Tensor:
    columns = []
    for head, _, first, _ in places(plan):
        columns.append((weights[:, :, head, None] * messages[:, :, first : first + plan.channels]).sum(1))
    return torch.cat(columns, dim=1)


def plain_products(messages: Tensor, features: Tensor, plan: HeadPlan) -> Tensor:
    logits = messages.new_zeros(*messages.shape[:2], sum(plan.heads))
    for head, _, first, column in places(plan):
        for channel in range(plan.channels):
            logits[:, :, head] += messages[:, :, first + channel] * features[:, None, column + channel]
    return logits


def factors(plan: HeadPlan, receivers: int = 4, slots: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, messages, features."""
    heads, columns, features = plan.widths()
    sizes = ((receivers, slots, heads), (receivers, slots, columns), (receivers, features))
    weights, messages, of_heads = (normal(*size, seed=seed) for seed, size in enumerate(sizes))
    return weights, messages, of_heads


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_sums_and_products(name: str, dtype: torch.dtype):
    plan = PLANS[name]
    given = factors(plan)
    weights, messages, features = (tensor.to(dtype) for tensor in given)
    for found, wanted in (
        (head_sums(weights, messages, plan), plain_sums(given[0], given[1], plan)),
        (head_products(messages, features, plan), plain_products(given[1], given[2], plan)),
    ):
        assert found.dtype == dtype
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), wanted, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize(("receivers", "slots"), [(0, 3), (4, 0), (1, 1)])
def test_nothing_to_sum(receivers: int, slots: int):
    plan = PLANS["groups"]
    weights, messages, features = factors(plan, receivers, slots)
    torch.testing.assert_close(head_sums(weights, messages, plan), plain_sums(weights, messages, plan))
    torch.testing.assert_close(head_products(messages, features, plan), plain_products(messages, features, plan))


@pytest.mark.parametrize("name", PLANS)
def test_derivatives_of_any_order(name: str):
    plan = PLANS[name]
    weights, messages, features = (tensor.requires_grad_() for tensor in factors(plan, 2, 3))

    def third(weights: Tensor, messages: Tensor) -> Tensor:
        """A second derivative, of which gradgradcheck asks for two more."""
        (first,) = torch.autograd.grad(
            head_sums(weights, messages, plan).sin().sum(), messages, create_graph=True, materialize_grads=True
        )
        return first

    for function, given in (
        (head_sums, (weights, messages)),
        (head_products, (messages, features)),
    ):
        call: Callable[..., Tensor] = lambda *tensors, function=function: function(*tensors, plan)  # noqa: E731
        assert torch.autograd.gradcheck(call, given)
        assert torch.autograd.gradgradcheck(call, given)
    assert torch.autograd.gradgradcheck(third, (weights, messages))


@pytest.mark.parametrize("wanted", [0, 1])
def test_gradient_of_one_alone(wanted: int):
    plan = PLANS["groups"]
    given = [tensor.requires_grad_(k == wanted) for k, tensor in enumerate(factors(plan)[:2])]
    (found,) = torch.autograd.grad(head_sums(*given, plan=plan).square().sum(), given[wanted])
    (plain,) = torch.autograd.grad(plain_sums(*given, plan=plan).square().sum(), given[wanted])
    torch.testing.assert_close(found, plain)


def test_transforms_of_torch_func():
    plan = PLANS["groups"]
    weights, messages, features = factors(plan)
    many = torch.stack((weights, 2 * weights))
    found = vmap(lambda w: head_sums(w, messages, plan))(many)
    torch.testing.assert_close(found, torch.stack([plain_sums(w, messages, plan) for w in many]))
    slope = grad(lambda m: head_products(m, features, plan).square().sum())(messages)
    torch.testing.assert_close(slope, grad(lambda m: plain_products(m, features, plan).square().sum())(messages))


def test_gradients_in_batches():
    plan = PLANS["groups"]
    weights, messages, _ = (tensor.requires_grad_() for tensor in factors(plan))
    sums = head_sums(weights, messages, plan)
    along = normal(3, *sums.shape, seed=7)
    found = torch.autograd.grad(sums, (weights, messages), along, is_grads_batched=True, retain_graph=True)
    for k, one in enumerate(along):
        alone = torch.autograd.grad(sums, (weights, messages), one, retain_graph=True)
        for of_batch, of_one in zip(found, alone, strict=True):
            torch.testing.assert_close(of_batch[k], of_one)


def test_under_autocast():
    plan = PLANS["groups"]
    weights, messages, _ = (tensor.float() for tensor in factors(plan))
    with torch.autocast("cpu", torch.bfloat16):
        assert head_sums(weights, messages, plan).dtype == torch.bfloat16


def plain_gated(x: Tensor, gates: Tensor, degrees: int) -> Tensor:
    channels = x.shape[-1] // degrees**2
    columns = []
    for degree in range(degrees):
        for component in range(degree**2, (degree + 1) ** 2):
            part = x[..., component * channels : (component + 1) * channels]
            gate = part if degree == 0 else gates[..., (degree - 1) * channels : degree * channels]
            columns.append(part / (1 + (-gate).exp()))
    return torch.cat(columns, dim=-1)


def gated(messages: Tensor, gates: Tensor, own: Tensor | None = None, degrees: int = 3) -> Tensor:
    return gate_messages(messages, gates, own, degrees)


def messages_and_gates(degrees: int, receivers: int = 2, edges: int = 3, channels: int = 2) -> list[Tensor]:
    """Of the edges; then messages of the receivers to themselves."""
    columns = degrees**2 * channels
    gates = normal(receivers, edges, (degrees - 1) * channels, seed=10)
    return [normal(receivers, edges, columns), gates, normal(receivers, columns, seed=1)]


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("degrees", [1, 2, 4])
def test_gates(degrees: int, attend_self: bool, dtype: torch.dtype):
    given = messages_and_gates(degrees)
    wanted = plain_gated(*given[:2], degrees=degrees)
    if attend_self:
        wanted = torch.cat((given[2][:, None], wanted), dim=1)
    found = gated(*(tensor.to(dtype) for tensor in given[: 2 + attend_self]), degrees=degrees)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("degrees", [1, 3])
def test_derivatives_of_gates(degrees: int, attend_self: bool):
    given = [tensor.requires_grad_() for tensor in messages_and_gates(degrees)[: 2 + attend_self]]

    def call(*tensors: Tensor) -> Tensor:
        return gated(*tensors, degrees=degrees)

    def first(*tensors: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(call(*tensors).sin().sum(), tensors[0], create_graph=True)
        return slope

    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)
    assert torch.autograd.gradgradcheck(first, given)


def test_gradients_of_gates_are_those_of_plain_operations():
    """In place where no graph of the gradient is wanted, and as a graph where one is."""
    given = [tensor.requires_grad_() for tensor in messages_and_gates(3)]
    wanted = torch.cat((given[2][:, None], plain_gated(*given[:2], degrees=3)), dim=1)
    slope = normal(*wanted.shape, seed=5)
    plain = torch.autograd.grad(wanted, given, slope)
    for create_graph in (False, True):
        found = torch.autograd.grad(gated(*given, degrees=3), given, slope, create_graph=create_graph)
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other)


def test_gates_under_transforms():
    messages, gates, own = messages_and_gates(3)
    many = torch.stack((gates, 2 * gates))
    found = vmap(lambda g: gated(messages, g, own))(many)
    torch.testing.assert_close(found[:, :, 1:], torch.stack([plain_gated(messages, g, 3) for g in many]))
    slope = grad(lambda m: gated(m, gates).square().sum())(messages)
    torch.testing.assert_close(slope, grad(lambda m: plain_gated(m, gates, 3).square().sum())(messages))
