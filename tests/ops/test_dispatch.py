"""Kernels take the place of operations where they fit, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from equiformer_pytorch.ops import dispatch
from equiformer_pytorch.ops.attend import attend
from equiformer_pytorch.ops.components import component_products
from equiformer_pytorch.ops.dispatch import KERNELS, Kernel, operation, register, traced
from equiformer_pytorch.ops.gates import gate_messages
from equiformer_pytorch.ops.heads import HeadPlan, head_products, head_sums
from equiformer_pytorch.ops.rotate import (
    gather_rotate,
    join_rotate,
    rotate_in,
    rotate_out,
    rotate_sum,
    weigh_rotate,
)
from equiformer_pytorch.ops.so2 import so2_product
from equiformer_pytorch.ops.softmax import edge_softmax, slot_softmax
from tests import published_cases
from tests.models import build, example
from tests.ops.graphs import SIZES, edge_graph, normal
from tests.ops.plans import PLANS, arguments

OPERATIONS = [
    "attend",
    "component_products",
    "edge_softmax",
    "gate_messages",
    "gather_rotate",
    "head_products",
    "head_sums",
    "join_rotate",
    "rotate_in",
    "rotate_out",
    "rotate_sum",
    "slot_softmax",
    "so2_product",
    "weigh_rotate",
]

DEGREES = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])


@pytest.fixture(autouse=True)
def _table() -> Iterator[None]:
    """Every test leaves the table as it was."""
    before = {name: list(kernels) for name, kernels in KERNELS.items()}
    yield
    for name in list(KERNELS):
        if name in before:
            KERNELS[name][:] = before[name]
        else:
            del KERNELS[name]
    assert before == KERNELS


def calls() -> dict[str, Callable[[], Any]]:
    """Each operation, called."""
    graph = edge_graph(SIZES["ragged"], 2, table=True)
    ends = normal(graph.count, 9, 2), normal(graph.count, 9, 2, seed=1)
    x, plan = normal(6, 9, 2), PLANS["orders"]
    given = arguments(plan, 6)
    _, empty = graph.laid_out()
    slots = normal(graph.count, empty.envelope.shape[1], 2)
    heads = HeadPlan((2, 1), 2, ((0, 1), (1, 2)))
    logits = normal(*slots.shape[:2], 3)
    return {
        "attend": lambda: attend([normal(*slots.shape[:2], 8)], logits, empty, None, heads),
        "component_products": lambda: component_products(x, normal(9, 2, 3), None, normal(2, 3)),
        "gate_messages": lambda: gate_messages(normal(4, 3, 8), normal(4, 3, 2), None, 2),
        "head_products": lambda: head_products(normal(4, 3, 8), normal(4, 10), heads),
        "head_sums": lambda: head_sums(normal(4, 3, 3), normal(4, 3, 8), heads),
        "gather_rotate": lambda: gather_rotate(*ends, graph, 1),
        "rotate_in": lambda: rotate_in(x, graph.rotation, 1),
        "rotate_out": lambda: rotate_out(x[:, :7], graph.rotation, 3, 1),
        "so2_product": lambda: so2_product(
            given["inputs"][0], given["scales"], given["matrices"], given["biases"], plan
        ),
        "join_rotate": lambda: join_rotate(ends[0], graph),
        "weigh_rotate": lambda: weigh_rotate(ends[0], normal(6, 3), normal(12, 3), normal(12), DEGREES, graph),
        "rotate_sum": lambda: rotate_sum(x, normal(6, 2), normal(9), graph.rotation.blocks[0], graph),
        "edge_softmax": lambda: edge_softmax(normal(6, 2), graph, 1e-16),
        "slot_softmax": lambda: slot_softmax(slots, empty),
    }


def test_every_operation_is_in_the_table():
    assert sorted(KERNELS) == OPERATIONS
    assert not any(KERNELS.values()), "torch everywhere: a kernel comes with a measurement"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kernel_takes_over_where_it_fits(name: str):
    call, seen = calls()[name], []
    plain = call()

    def fits(*args: Any, **kwargs: Any) -> bool:
        seen.append((args, kwargs))
        return len(seen) > 1

    register(name, Kernel(fits, lambda *args, **kwargs: ("kernel", args, kwargs)))
    first = call()
    for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (first, plain)), strict=True):
        assert torch.equal(one, other)
    marker, args, kwargs = call()
    assert marker == "kernel"
    assert len(seen) == 2
    assert (args, kwargs) == seen[1], "it gets what it was asked about"


def test_the_last_one_that_is_registered_is_asked_first():
    call, asked = calls()["rotate_in"], []

    def kernel(name: str, fits: bool) -> Kernel:
        return Kernel(lambda *_, **__: bool(asked.append(name) or fits), lambda *_, **__: name)

    for name, fits in (("first", True), ("second", True), ("third", False)):
        register("rotate_in", kernel(name, fits))
    assert call() == "second"
    assert asked == ["third", "second"]


def test_a_kernel_serves_the_operations_that_are_made_of_it():
    """gather_rotate turns with rotate_in."""
    plain = calls()["gather_rotate"]()
    register("rotate_in", Kernel(lambda *_: True, lambda x, rotation, max_order: 2 * plain))
    assert torch.equal(calls()["gather_rotate"](), 2 * plain)


FUNCTIONS = {
    "edge_softmax": edge_softmax,
    "gather_rotate": gather_rotate,
    "join_rotate": join_rotate,
    "rotate_out": rotate_out,
    "rotate_sum": rotate_sum,
    "slot_softmax": slot_softmax,
    "so2_product": so2_product,
    "weigh_rotate": weigh_rotate,
}


def used_in(call: Callable[[], Any]) -> dict[str, int]:
    """How often a call asks for each operation, other than by another one."""
    used: dict[str, int] = {}

    def watched(name: str) -> Kernel:
        function = FUNCTIONS[name].__wrapped__

        def run(*args: Any, **kwargs: Any) -> Any:
            used[name] = used.get(name, 0) + 1
            return function(*args, **kwargs)

        return Kernel(lambda *_, **__: True, run)

    for name in FUNCTIONS:
        register(name, watched(name))
    call()
    return used


def test_models_run_through_the_table():
    """Kernels that are the functions themselves see every layer, and change nothing."""
    model = build(l2_dist_attention=False)
    given, found = example(model), []
    plain = model(**given.call()).type0
    used = used_in(lambda: found.append(model(**given.call()).type0))
    assert torch.equal(found[0], plain)
    assert used == {"gather_rotate": 3, "so2_product": 3, "rotate_out": 3, "slot_softmax": 2}


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_published_models_run_through_the_table(kind: str):
    """Two layers, and the attention that gives forces."""
    model, inputs, found = published_cases.build(kind), published_cases.molecule(), []
    plain = model(**inputs)["energy"]
    used = used_in(lambda: found.append(model(**inputs)["energy"]))
    assert torch.equal(found[0], plain)
    assert used == {"join_rotate": 3, "so2_product": 6, "edge_softmax": 3, "rotate_sum": 3}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"one of the operations.*'so2_product'.*got 'so2'"):
        register("so2", Kernel(lambda: True, lambda: None))
    assert "so2" not in KERNELS


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("asked while something traces")


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.unchecked
def test_not_while_traced_or_transformed():
    """Compilers and the transforms of torch.func see the function itself."""
    graph = edge_graph(SIZES["ragged"], 2)
    x = normal(6, 9, 2)
    plain = rotate_in(x, graph.rotation, 2)
    register("rotate_in", Kernel(never, never))
    with pytest.raises(AssertionError, match="asked"):
        rotate_in(x, graph.rotation, 2)

    def function(x: Tensor) -> Tensor:
        return rotate_in(x, graph.rotation, 2)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    torch._dynamo.reset()
    for backend in ("eager", "aot_eager"):
        assert torch.equal(torch.compile(function, fullgraph=True, backend=backend)(x), plain)
    torch._dynamo.reset()
    assert torch.equal(torch.export.export(Module(), (x,), strict=False).module()(x), plain)
    torch.testing.assert_close(vmap(function)(torch.stack([x, x]))[1], plain)
    weight = normal(*plain.shape, seed=2)
    leaf = x.clone().requires_grad_()
    plainly: Any = rotate_in.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]  (set by the decorator)
    (wanted,) = torch.autograd.grad((plain * 0 + plainly(leaf, graph.rotation, 2) * weight).sum(), leaf)
    torch.testing.assert_close(grad(lambda x: (function(x) * weight).sum())(x), wanted)
    with pytest.raises(AssertionError, match="asked"):
        functional_call(Module(), {}, (x,))


def test_traced():
    assert not traced()
    seen: list[bool] = []
    vmap(lambda x: seen.append(traced()) or x)(torch.zeros(2))
    assert seen == [True]
    assert not traced()


def test_new_operations_enter_the_table():
    @operation
    def doubled(x: float) -> float:
        """Twice x."""
        return 2 * x

    assert doubled.__doc__ == "Twice x."
    assert doubled(3.0) == 6.0
    register("doubled", Kernel(lambda x: x > 3, lambda x: -x))
    assert (doubled(3.0), doubled(4.0)) == (6.0, -4.0)
    assert dispatch.KERNELS is KERNELS
