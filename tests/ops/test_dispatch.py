"""Kernels take the place of operations where they fit, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from equiformer_pytorch.ops import dispatch
from equiformer_pytorch.ops.dispatch import KERNELS, Kernel, operation, register, traced
from equiformer_pytorch.ops.rotate import gather_rotate, rotate_in, rotate_out
from equiformer_pytorch.ops.so2 import so2_product
from equiformer_pytorch.ops.softmax import edge_softmax, slot_softmax
from tests.models import build, example
from tests.ops.graphs import SIZES, edge_graph, normal
from tests.ops.plans import PLANS, arguments

OPERATIONS = ["edge_softmax", "gather_rotate", "rotate_in", "rotate_out", "slot_softmax", "so2_product"]


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
    ends = normal(graph.count, 18), normal(graph.count, 18, seed=1)
    x, plan = normal(6, 9, 2), PLANS["orders"]
    given = arguments(plan, 6)
    slots = normal(graph.count, graph.slots.envelope.shape[1], 2)
    return {
        "gather_rotate": lambda: gather_rotate(*ends, graph, 3, 1),
        "rotate_in": lambda: rotate_in(x, graph.rotation, 1),
        "rotate_out": lambda: rotate_out(x[:, :7], graph.rotation, 3, 1),
        "so2_product": lambda: so2_product(
            given["inputs"][0], given["scales"], given["matrices"], given["biases"], plan
        ),
        "edge_softmax": lambda: edge_softmax(normal(6, 2), graph, 1e-16),
        "slot_softmax": lambda: slot_softmax(slots, graph.slots),
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


def test_models_run_through_the_table():
    """Kernels that are the functions themselves see every layer, and change nothing."""
    model = build(l2_dist_attention=False)
    given = example(model)
    plain = model(**given.call()).type0
    used: list[str] = []
    for operation_, name in (
        (gather_rotate, "gather_rotate"),
        (so2_product, "so2_product"),
        (rotate_out, "rotate_out"),
        (slot_softmax, "slot_softmax"),
    ):
        function = operation_.__wrapped__
        register(name, Kernel(lambda *_: True, lambda *args, f=function, n=name: used.append(n) or f(*args)))
    assert torch.equal(model(**given.call()).type0, plain)
    assert {name: used.count(name) for name in set(used)} == {
        "gather_rotate": 3,
        "so2_product": 3,
        "rotate_out": 3,
        "slot_softmax": 2,
    }


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"one of the operations.*'so2_product'.*got 'so2'"):
        register("so2", Kernel(lambda: True, lambda: None))
    assert "so2" not in KERNELS


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("asked while something traces")


@pytest.mark.filterwarnings("ignore:The .grad attribute")
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
    (wanted,) = torch.autograd.grad((plain * 0 + rotate_in.__wrapped__(leaf, graph.rotation, 2) * weight).sum(), leaf)
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
