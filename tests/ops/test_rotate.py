"""Features into the frames of edges and back, beside e3nn's Wigner matrices applied degree by degree."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops import recompute
from equiformer_pytorch.ops.rotate import (
    gather_rotate,
    join_rotate,
    rotate_in,
    rotate_out,
    rotate_sum,
    weigh_rotate,
)
from equiformer_pytorch.testing import assert_gradients
from tests.models import total
from tests.ops.graphs import SIZES, edge_graph, normal, random_wigner, rotation_of
from tests.oracle import order_major, turned, turned_back

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.2}
# Degrees that the feature has, orders wanted, degrees below which the rotation has one block; of degrees up to 5.
CUTS = [
    (degrees, max_order, shared)
    for degrees in (1, 2, 3, 6)
    for max_order in (0, 1, 2, 5)
    for shared in (1, 4, 6)
    if max_order < degrees
]


@pytest.mark.parametrize(("degrees", "max_order", "shared"), CUTS)
def test_values(degrees: int, max_order: int, shared: int):
    matrices = random_wigner(4, 5)
    for held in (max_order, 5):  # a rotation that has just the rows wanted, or more
        rotation = rotation_of(matrices, held, shared)
        x = normal(4, degrees**2, 3)
        aligned = rotate_in(x, rotation, max_order)
        torch.testing.assert_close(aligned, turned(matrices, x, max_order), rtol=0, atol=1e-12)
        y = normal(*aligned.shape, seed=1)
        back = rotate_out(y, rotation, degrees, max_order)
        torch.testing.assert_close(back, turned_back(matrices, y, degrees, max_order), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shared", [1, 4, 6])
def test_out_is_the_inverse_where_all_orders_are_there(shared: int):
    rotation = rotation_of(random_wigner(3, 5), 5, shared)
    x = normal(3, 36, 2)
    torch.testing.assert_close(rotate_out(rotate_in(x, rotation, 5), rotation, 6, 5), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_both_ends_are_added(name: str, table: bool):
    """Also where every receiver has as many edges, so that it need not be gathered."""
    sizes, matrices = SIZES[name], random_wigner(sum(SIZES[name]), 3)
    graph = edge_graph(sizes, 3, table=table)
    sender, receiver = normal(len(sizes), 9, 2), normal(len(sizes), 9, 2, seed=1)
    found = gather_rotate(sender, receiver, graph, 1)
    ends = [sender[j] + receiver[i] for j, i in zip(graph.senders, graph.receivers, strict=True)]
    ends = torch.stack(ends) if ends else sender.new_zeros(0, 9, 2)
    torch.testing.assert_close(found, turned(matrices, ends, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_pieces_are_the_whole(name: str, table: bool):
    sizes = SIZES[name]
    graph = edge_graph(sizes, 4, table=table)
    sender, receiver = normal(len(sizes), 9, 2), normal(len(sizes), 9, 2, seed=1)
    whole = gather_rotate(sender, receiver, graph, 2)
    parts = [gather_rotate(sender, receiver[rows], piece, 2) for rows, piece in graph.pieces(2)]
    assert len(parts) > 2 or name not in ("ragged", "equal")
    torch.testing.assert_close(torch.cat(parts) if parts else whole, whole, rtol=0, atol=1e-13)
    back = rotate_out(whole, graph.rotation, 3, 2)
    parts = [rotate_out(part, piece.rotation, 3, 2) for part, (_, piece) in zip(parts, graph.pieces(2), strict=True)]
    torch.testing.assert_close(torch.cat(parts) if parts else back, back, rtol=0, atol=1e-13)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("name", ["ragged", "equal", "no edges"])
def test_gradients_of_two_orders(name: str, table: bool):
    graph = edge_graph(SIZES[name], 3, shared=3, table=table)
    points = len(SIZES[name])

    def function(sender: Tensor, receiver: Tensor, blocks: list[Tensor]) -> Tensor:
        scalars, *rest = graph.tensors()
        rotated = graph.with_tensors((scalars, *blocks, *rest[len(blocks) :]))
        return gather_rotate(sender, receiver, rotated, 1)

    given = {"sender": normal(points, 16, 1), "receiver": normal(points, 16, 1, seed=1)}
    blocks = {str(k): block for k, block in enumerate(graph.rotation.blocks)}
    for fast, by in ((False, ["sender", "receiver"]), (True, ["sender", "blocks.0", "blocks.1"])):
        assert_gradients(
            lambda sender, receiver, blocks: function(sender, receiver, list(blocks.values())),
            {**given, "blocks": blocks},
            by=by if sum(SIZES[name]) else ["sender", "receiver"],
            fast=fast,
        )


@pytest.mark.parametrize(("degrees", "max_order", "shared"), [(3, 2, 4), (2, 1, 4), (4, 1, 2), (1, 0, 4)])
def test_gradients_of_two_orders_into_and_out_of_the_frame(degrees: int, max_order: int, shared: int):
    rotation = rotation_of(random_wigner(2, 3), 3, shared)

    def function(x: Tensor, y: Tensor, **blocks: Tensor) -> tuple[Tensor, Tensor]:
        given = rotation.with_blocks(blocks.values())
        return rotate_in(x, given, max_order), rotate_out(y, given, degrees, max_order)

    x, y = normal(2, degrees**2, 2), normal(2, len(order_major(degrees - 1, max_order)), 2, seed=1)
    assert_gradients(function, {"x": x, "y": y, **{f"b{k}": b for k, b in enumerate(rotation.blocks)}}, fast=True)


@pytest.mark.parametrize("dtype", CLOSE)
def test_dtypes(dtype: torch.dtype):
    exact, graph = edge_graph(SIZES["ragged"], 5), edge_graph(SIZES["ragged"], 5, dtype=dtype)
    ends = [normal(5, 36, 2, seed=seed) for seed in (0, 1)]
    wanted = gather_rotate(*ends, graph=exact, max_order=2)
    found = gather_rotate(*(end.to(dtype) for end in ends), graph=graph, max_order=2)
    assert found.dtype == dtype
    assert (found.double() - wanted).abs().max() < CLOSE[dtype]
    back = rotate_out(found, graph.rotation, 6, 2)
    assert back.dtype == dtype
    assert (back.double() - rotate_out(wanted, exact.rotation, 6, 2)).abs().max() < CLOSE[dtype]


def test_transforms():
    """grad is autograd's, and vmap is a loop."""
    graph = edge_graph(SIZES["ragged"], 4)
    sender, receiver = normal(3, 5, 9, 1), normal(3, 5, 9, 1, seed=1)

    def function(sender: Tensor, receiver: Tensor) -> Tensor:
        y = gather_rotate(sender, receiver, graph, 1)
        return rotate_out(y.sin(), graph.rotation, 3, 1).square().sum()

    leaf = sender[0].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(function(leaf, receiver[0]), leaf)
    torch.testing.assert_close(grad(function)(sender[0], receiver[0]), wanted)
    looped = [function(s, r) for s, r in zip(sender, receiver, strict=True)]
    torch.testing.assert_close(vmap(function)(sender, receiver), torch.stack(looped))
    per_sample = [grad(function)(s, r) for s, r in zip(sender, receiver, strict=True)]
    torch.testing.assert_close(vmap(grad(function))(sender, receiver), torch.stack(per_sample))


# Operations on one block of all degrees, in pieces of edges

DEGREES = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])
PIECES = ["joined", "weighed", "summed"]


def one_block(name: str, dtype: torch.dtype = torch.float64) -> EdgeGraph:
    return edge_graph(SIZES[name], 2, 1, shared=3, dtype=dtype)


def given(graph: EdgeGraph, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """What the three operations take beside the graph, two channels and two heads."""
    edges = len(graph.senders)
    return {
        "x": normal(graph.count, 9, 2, dtype=dtype),
        "radial": normal(edges, 3, seed=1, dtype=dtype),
        "weight": normal(12, 3, seed=2, dtype=dtype),
        "bias": normal(12, seed=3, dtype=dtype),
        "messages": normal(edges, 7, 4, seed=4, dtype=dtype),
        "weights": normal(edges, 2, seed=5, dtype=dtype),
        "rescaled": normal(7, seed=6, dtype=dtype),
        "rotation": graph.rotation.blocks[0],
    }


USED = {
    "joined": ["x", "rotation"],
    "weighed": ["x", "radial", "weight", "bias", "rotation"],
    "summed": ["messages", "weights", "rotation"],
}


def operation(name: str, graph: EdgeGraph, leaves: dict[str, Tensor]) -> Tensor:
    if name == "summed":
        return rotate_sum(*(leaves[key] for key in ("messages", "weights", "rescaled", "rotation")), graph=graph)
    scalars, _, *rest = graph.tensors()
    graph = graph.with_tensors((scalars, leaves["rotation"], *rest))
    if name == "joined":
        return join_rotate(leaves["x"], graph)
    return weigh_rotate(*(leaves[key] for key in ("x", "radial", "weight", "bias")), degree=DEGREES, graph=graph)


def in_loops(name: str, graph: EdgeGraph, leaves: dict[str, Tensor]) -> Tensor:
    """Edge by edge."""
    matrices = random_wigner(len(graph.senders), 2)
    x, found = leaves["x"], []
    if name == "summed":
        total = [torch.zeros(9, 4, dtype=torch.float64) for _ in range(graph.count)]
        heads = leaves["weights"].repeat_interleave(2, dim=1)
        message = leaves["messages"] * heads[:, None] * leaves["rescaled"][:, None]
        for edge, i in enumerate(graph.receivers.tolist()):
            single = [matrix[edge : edge + 1] for matrix in matrices]
            total[i] = total[i] + turned_back(single, message[edge : edge + 1], 3, 1)[0]
        return torch.stack(total) if total else torch.zeros(0, 9, 4, dtype=torch.float64)
    for edge, (j, i) in enumerate(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)):
        single = [matrix[edge : edge + 1] for matrix in matrices]
        if name == "joined":
            ends = torch.cat((x[j], x[i]), dim=1)
        else:
            # Of each degree first the weights of the sender's channels, then of the receiver's.
            w = (leaves["weight"] @ leaves["radial"][edge] + leaves["bias"]).view(3, 2, 2)[DEGREES]
            ends = w[:, 0] * x[j] + w[:, 1] * x[i]
        found.append(turned(single, ends[None], 1)[0])
    return torch.stack(found) if found else torch.zeros(0, 7, 4 if name == "joined" else 2, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 100, 2**18])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("which", PIECES)
def test_in_pieces(monkeypatch: pytest.MonkeyPatch, which: str, name: str, size: int):
    graph = one_block(name)
    leaves = given(graph)
    wanted = in_loops(which, graph, leaves)
    monkeypatch.setattr(recompute, "PIECE", size)
    torch.testing.assert_close(operation(which, graph, leaves), wanted, rtol=0, atol=1e-12)
    # Parts of the graph: receivers count from 0 in each, features are of all points.
    parts, first = [], 0
    for _, piece in graph.pieces(2):
        edges = slice(first, first + len(piece.senders))
        first = edges.stop
        of_edges = {"radial", "messages", "weights", "rotation"}
        parts.append(operation(which, piece, {k: v[edges] if k in of_edges else v for k, v in leaves.items()}))
    if parts:
        torch.testing.assert_close(torch.cat(parts), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", PIECES)
def test_gradients_of_two_orders_in_pieces(monkeypatch: pytest.MonkeyPatch, which: str):
    monkeypatch.setattr(recompute, "PIECE", 40)
    graph = one_block("ragged")
    leaves = given(graph)
    chosen = {name: leaves[name] for name in USED[which]}
    assert_gradients(lambda **tensors: operation(which, graph, {**leaves, **tensors}), chosen, fast=True)
    found, exact = [], []
    for made, function in ((found, operation), (exact, in_loops)):
        if which != "summed":
            chosen.pop("rotation", None)  # e3nn's are constants
        tensors = {name: x.clone().requires_grad_() for name, x in chosen.items() if name != "rotation"}
        loss = function(which, graph, {**leaves, **tensors}).sin().sum()
        slopes = torch.autograd.grad(loss, list(tensors.values()), create_graph=True)
        made += slopes
        made += torch.autograd.grad(total(slope.sin().sum() for slope in slopes), list(tensors.values()))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("which", PIECES)
def test_no_edges(which: str):
    """Of whatever there is, gradients are zero."""
    for name in ("no edges", "no points"):
        graph = one_block(name)
        leaves = {k: v.clone().requires_grad_() for k, v in given(graph).items()}
        operation(which, graph, leaves).sum().backward()
        for used in USED[which]:
            assert leaves[used].grad.shape == leaves[used].shape
            assert not leaves[used].grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", PIECES)
def test_dtypes_in_pieces(which: str, dtype: torch.dtype):
    exact, graph = one_block("ragged"), one_block("ragged", dtype)
    wanted, found = operation(which, exact, given(exact)), operation(which, graph, given(graph, dtype))
    assert found.dtype == dtype
    assert (found.double() - wanted).abs().max() < CLOSE[dtype] * wanted.abs().max()


@pytest.mark.parametrize("which", PIECES)
def test_transforms_in_pieces(which: str):
    graph = one_block("ragged")
    leaves = given(graph)
    name = USED[which][0]
    both = torch.stack([leaves[name], leaves[name].cos()])

    def function(x: Tensor) -> Tensor:
        return operation(which, graph, {**leaves, name: x}).sin().sum()

    leaf = both.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(function(part) for part in leaf), leaf)
    torch.testing.assert_close(vmap(grad(function))(both), wanted)
