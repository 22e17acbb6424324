"""Every operation compiles as one graph, and is exported for any number of points and edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from equiformer_pytorch.graph.edges import EdgeGraph, Slots
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.ops.pieces import over_points, over_receivers
from equiformer_pytorch.ops.recompute import product_in_pieces, recomputed
from equiformer_pytorch.ops.rotate import gather_rotate, join_rotate, rotate_out, rotate_sum, weigh_rotate
from equiformer_pytorch.ops.so2 import so2_product
from equiformer_pytorch.ops.softmax import edge_softmax, slot_softmax
from tests.models import mostly_slow
from tests.ops.graphs import SIZES, edge_graph, normal
from tests.ops.plans import PLANS, SINGLE, arguments

pytestmark = [
    pytest.mark.unchecked,
    # Dynamo looks at .grad of whatever it is given; torch.export at its own deprecated parts.
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Operation(nn.Module):
    """One operation; `given` are its tensors."""

    table = False

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        raise NotImplementedError


class Rotated(Operation):
    """In, out, and the sum over receivers."""

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        x = x.unflatten(1, (9, 2))
        aligned = gather_rotate(x, 2 * x, graph, 1)
        return graph.sum_receivers(rotate_out(aligned.sin(), graph.rotation, 3, 1))


class RotatedInTables(Rotated):
    table = True


class RotatedInPieces(Operation):
    """Side by side or weighed and added, and summed with weights of heads; rotations of one block."""

    degree: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.ParameterList([normal(16, 1), normal(16)])
        self.register_buffer("degree", torch.tensor([d for d in range(4) for _ in range(2 * d + 1)]))

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        x = x[:, :16].reshape(-1, 8, 2).repeat(1, 2, 1)
        heads = graph.scalars[:, :1].cos().expand(-1, 2)
        joined = join_rotate(x, graph).sin()
        weighed = weigh_rotate(x, graph.scalars[:, :1], *self.last, degree=self.degree, graph=graph)
        weights = torch.cat((heads, heads.sin()), dim=1)
        message = torch.cat((joined, weighed, weighed.cos()), dim=2)
        rescaled = torch.linspace(0, 1, 16, dtype=x.dtype)
        return rotate_sum(message, weights, rescaled, graph.rotation.blocks[0], graph)


class Product(Operation):
    """Of plans with scales, biases, pairs, sums."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.plan = PLANS[name]
        given = arguments(self.plan, 1)
        self.matrices = nn.ParameterList(given["matrices"])
        self.biases = nn.ParameterList(given["biases"])
        self.widths = self.plan.sources[0], 0 if given["scales"] is None else given["scales"].shape[1]

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        ends = x.index_select(0, graph.senders)
        source, scales = ends[:, : self.widths[0]], ends[:, 1 : 1 + self.widths[1]].cos()
        results = so2_product(
            source, scales if self.widths[1] else None, list(self.matrices), list(self.biases), self.plan
        )
        return torch.cat([result.sin() for result in results], dim=1)


class EdgeWeights(Operation):
    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        return edge_softmax(x.index_select(0, graph.senders)[:, :2], graph, 1e-16)


class SlotWeights(Operation):
    table = True

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        logits = graph.spread(x.index_select(0, graph.senders)[:, :2])
        _, slots = graph.laid_out()
        return torch.cat(slot_softmax(torch.cat((x[:, None, :2], logits), dim=1), slots, x[:, 2:4].cos()), dim=2)


class InPieces(Operation):
    """Of receivers and of points: all at once in a program whose sizes are not known."""

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        def summed(piece: EdgeGraph) -> tuple[Tensor]:
            return (piece.sum_receivers(x.index_select(0, piece.senders).sin()),)

        (received,) = over_receivers(summed, graph, 18, x.shape[0])
        return over_points(torch.tanh, received, 18)


class Again(Operation):
    """Functions that are computed again, if nothing traces."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(18, 18))

    def forward(self, graph: EdgeGraph, x: Tensor) -> Tensor:
        ends = x.index_select(0, graph.senders).unflatten(1, (9, 2))
        split = graph.rotation.blocks[0], ends
        turned = product_in_pieces(lambda r, e, w: (r[:, :9, :9], e.sin(), e @ w[:2, :3]), split, (self.weight,), 18)
        return recomputed(lambda x, w: (x @ w[:5, :5]).tanh(), turned, self.weight)


OPERATIONS: dict[str, Any] = {
    "rotations": Rotated,
    "rotations in tables": RotatedInTables,
    "rotations in pieces": RotatedInPieces,
    **{f"product, {name}": lambda name=name: Product(name) for name in SINGLE},
    "edge softmax": EdgeWeights,
    "slot softmax": SlotWeights,
    "pieces": InPieces,
    "computed again": Again,
}
EXPORTED = [name for name in OPERATIONS if "," not in name] + ["product, orders", "product, sums"]


def outputs_and_gradients(function: Any, module: nn.Module, x: Tensor, *rest: Any) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = function(*rest, x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    leaves = [x, *module.parameters()]
    return [out, *torch.autograd.grad((out * weight).sum(), leaves, materialize_grads=True)]


@pytest.mark.parametrize("name", mostly_slow(OPERATIONS, "rotations", "product, orders", "slot softmax"))
def test_compiled_as_one_graph(name: str):
    module = OPERATIONS[name]().double()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    sizes = ["ragged", "equal"] if name in EXPORTED else ["ragged"]
    for case in sizes:
        graph = edge_graph(SIZES[case], 3, table=module.table)
        x = normal(graph.count, 18)
        plain, found = (outputs_and_gradients(f, module, x, graph) for f in (module, compiled))
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


class Program(nn.Module):
    """An operation from plain tensors: the graph is made on the way."""

    def __init__(self, module: Operation) -> None:
        super().__init__()
        self.module, self.frames = module, EdgeFrames(3)

    def forward(self, x: Tensor, vectors: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        distance, rotation = self.frames(vectors)
        envelope = (-distance).exp()
        graph = EdgeGraph(senders, receivers, receivers, x.shape[0], rotation, distance[:, None], envelope)
        if self.module.table:
            table = Table.from_groups(receivers, x.shape[0])
            graph = replace(graph, table=table, slots=Slots.of(table, envelope, True))
        return self.module(graph, x)


def call(sizes: list[int]) -> list[Tensor]:
    edges = sum(sizes)
    receivers = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return [normal(len(sizes), 18), normal(edges, 3), torch.arange(edges) % max(len(sizes), 1), receivers]


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="symbolic sizes take a newer torch")
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_for_any_size(name: str):
    program = Program(OPERATIONS[name]().double())
    points, edges = Dim("points"), Dim("edges")
    shapes = ({0: points}, {0: edges}, {0: edges}, {0: edges})
    exported = export(program, tuple(call([2, 0, 3, 1])), dynamic_shapes=shapes, strict=False).module()
    for sizes in ([2, 0, 3, 1], [1, 0, 0, 4, 2, 2, 0], [3, 3, 3]):
        x, *rest = call(sizes)
        plain, found = (
            outputs_and_gradients(lambda *a, f=f: f(a[-1], *a[:-1]), f, x, *rest) for f in (program, exported)
        )
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
