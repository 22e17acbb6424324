"""Attention as one step, beside its operations one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.graph.edges import Slots
from equiformer_pytorch.ops.attend import Distances, attend
from equiformer_pytorch.ops.heads import HeadPlan, head_products, head_sums
from equiformer_pytorch.ops.softmax import slot_softmax
from tests.ops.graphs import SIZES, edge_graph, normal

CLOSE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 1e-1}
PLANS = {
    "groups": HeadPlan((3, 1, 2), 2, ((0, 1), (1, 2), (2, 3))),
    "one group": HeadPlan((2, 2), 2, ((0, 2),)),
    "every head has every component": HeadPlan((3,), 8, ((0, 1),)),
}


def case(
    name: str,
    *,
    distances: bool,
    gated: bool = True,
    own: bool = True,
    size: str = "ragged",
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Slots, gates, what is compared, and messages in one part or two."""
    plan = PLANS[name]
    _, slots = edge_graph(SIZES[size], table=True, attend_self=True).laid_out()
    receivers, count, _ = slots.envelope.shape
    heads, columns, features = plan.widths()
    compared = [normal(receivers, count, heads, seed=1)]
    if distances:
        compared = [normal(receivers, features, seed=1), normal(columns, heads, seed=2), normal(heads, seed=3).abs()]
    messages = normal(receivers, count, columns, seed=4)
    parts = [messages[:, :1], messages[:, 1:]] if own else [messages]
    gates = [normal(receivers, heads, seed=5)] if gated else []
    return [tensor.detach().to(dtype) for tensor in (*slots, *gates, *compared, *parts)]


def opened(tensors: Sequence[Tensor], distances: bool, gated: bool) -> tuple:
    """Of :func:`case`: messages, what is compared, slots, gates."""
    slots, rest = Slots(*tensors[:3]), list(tensors[3:])
    gates = rest.pop(0) if gated else None
    compared = Distances(*(rest.pop(0) for _ in range(3))) if distances else rest.pop(0)
    return rest, compared, slots, gates


def plain(tensors: Sequence[Tensor], plan: HeadPlan, distances: bool, gated: bool = True) -> tuple[Tensor, Tensor]:
    """Operation by operation."""
    parts, compared, slots, gates = opened(tensors, distances, gated)
    messages = torch.cat(parts, dim=1)
    if distances:
        query, metric, scale = compared
        compared = scale * (head_products(messages, query, plan) - messages.square() @ metric.square() / 2)
    weights, shares = slot_softmax(compared, slots, None if gates is None else gates.sigmoid())
    return head_sums(weights, messages, plan), shares


def at_once(tensors: Sequence[Tensor], plan: HeadPlan, distances: bool, gated: bool = True) -> tuple[Tensor, Tensor]:
    parts, compared, slots, gates = opened(tensors, distances, gated)
    return attend(parts, compared, slots, gates, plan)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("distances", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_values(name: str, distances: bool, dtype: torch.dtype):
    wanted = plain(case(name, distances=distances), PLANS[name], distances)
    found = at_once(case(name, distances=distances, dtype=dtype), PLANS[name], distances)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("distances", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_derivatives_of_three_orders(name: str, distances: bool, gated: bool, own: bool):
    """Of every argument, by all of them, through sums and shares."""
    given = case(name, distances=distances, gated=gated, own=own)
    slopes = []
    for function in (at_once, plain):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        if distances:
            leaves[5 + gated].requires_grad_(False)  # a constant
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        sums, shares = function(leaves, PLANS[name], distances, gated)
        value, found = (sums.sin() * sums).sum() + (shares.square() * shares.sin()).sum(), []
        for order in range(3):
            of_order = torch.autograd.grad(value, wanted, create_graph=order < 2)
            found.append(of_order)
            value = sum(((slope * slope.sin()).sum() for slope in of_order), torch.zeros(()))
        slopes.append(found)
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("distances", [True, False])
def test_only_what_is_wanted(distances: bool):
    plan, given = PLANS["groups"], case("groups", distances=distances)
    for place in range(len(given)):
        if distances and place == 6:
            continue  # a constant
        slopes = []
        for function in (at_once, plain):
            leaves = [tensor.clone().requires_grad_(k == place) for k, tensor in enumerate(given)]
            slopes += torch.autograd.grad(function(leaves, plan, distances)[0].sin().sum(), leaves[place])
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("distances", [True, False])
def test_no_receivers_no_slots(distances: bool):
    plan = PLANS["groups"]
    heads, columns, features = plan.widths()
    for receivers, count in ((0, 3), (2, 0)):
        slots = [torch.zeros(receivers, count, 1)] * 3
        compared = [torch.zeros(receivers, count, heads)]
        if distances:
            compared = [torch.zeros(receivers, features), torch.ones(columns, heads), torch.ones(heads)]
        leaf = torch.zeros(receivers, count, columns, requires_grad=True)
        sums, _ = at_once([*slots, *compared, leaf], plan, distances, gated=False)
        assert sums.shape == (receivers, features)
        assert not sums.any()
        sums.sum().backward()


@pytest.mark.parametrize("distances", [True, False])
def test_transforms_batches_and_autocast(distances: bool):
    plan, given = PLANS["groups"], case("groups", distances=distances)

    def loss(messages: Tensor, function=at_once) -> Tensor:
        return function([*given[:-1], messages], plan, distances)[0].sin().sum()

    torch.testing.assert_close(grad(loss)(given[-1]), grad(lambda m: loss(m, plain))(given[-1]))
    many = torch.stack((given[-1], 2 * given[-1]))
    torch.testing.assert_close(vmap(loss)(many), torch.stack([loss(m) for m in many]))
    leaf = given[-1].clone().requires_grad_()
    sums, _ = at_once([*given[:-1], leaf], plan, distances)
    along = normal(3, *sums.shape, seed=7)
    (found,) = torch.autograd.grad(sums, leaf, along, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(sums, leaf, one, retain_graph=True)[0] for one in along]
    torch.testing.assert_close(found, torch.stack(alone))
    with torch.autocast("cpu", torch.bfloat16):
        sums, _ = at_once([tensor.float() for tensor in given], plan, distances)
    assert sums.dtype == torch.bfloat16


def test_squares_are_not_kept():
    """Of tensors as large as the messages, only the joined messages are kept, and the parts are not."""
    plan, given = PLANS["groups"], case("groups", distances=True)
    leaves = [tensor.requires_grad_() for tensor in given]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        at_once(leaves, plan, True)
    size = sum(part.numel() for part in leaves[-2:])
    assert sum(tensor.numel() == size for tensor in kept) == 1
    assert not any(tensor is part for tensor in kept for part in leaves[-2:])
