"""Features into the frames of edges and back, beside e3nn's Wigner matrices applied degree by degree."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from equiformer_pytorch.ops.rotate import gather_rotate, rotate_in, rotate_out
from equiformer_pytorch.testing import assert_gradients
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
    sender, receiver = normal(len(sizes), 9 * 2), normal(len(sizes), 9 * 2, seed=1)
    found = gather_rotate(sender, receiver, graph, 3, 1)
    ends = [sender[j] + receiver[i] for j, i in zip(graph.senders, graph.receivers, strict=True)]
    ends = torch.stack(ends) if ends else sender.new_zeros(0, 18)
    torch.testing.assert_close(found, turned(matrices, ends.unflatten(1, (9, 2)), 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_pieces_are_the_whole(name: str, table: bool):
    sizes = SIZES[name]
    graph = edge_graph(sizes, 4, table=table)
    sender, receiver = normal(len(sizes), 9 * 2), normal(len(sizes), 9 * 2, seed=1)
    whole = gather_rotate(sender, receiver, graph, 3, 2)
    parts = [gather_rotate(sender, receiver[rows], piece, 3, 2) for rows, piece in graph.pieces(2)]
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
        rotated = graph.with_tensors((graph.scalars, *blocks, graph.envelope, *(graph.slots or ())))
        return gather_rotate(sender, receiver, rotated, 4, 1)

    given = {"sender": normal(points, 16), "receiver": normal(points, 16, seed=1)}
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
    ends = [normal(5, 36 * 2, seed=seed) for seed in (0, 1)]
    wanted = gather_rotate(*ends, exact, 6, 2)
    found = gather_rotate(*(end.to(dtype) for end in ends), graph, 6, 2)
    assert found.dtype == dtype
    assert (found.double() - wanted).abs().max() < CLOSE[dtype]
    back = rotate_out(found, graph.rotation, 6, 2)
    assert back.dtype == dtype
    assert (back.double() - rotate_out(wanted, exact.rotation, 6, 2)).abs().max() < CLOSE[dtype]


def test_transforms():
    """grad is autograd's, and vmap is a loop."""
    graph = edge_graph(SIZES["ragged"], 4)
    sender, receiver = normal(3, 5, 9), normal(3, 5, 9, seed=1)

    def function(sender: Tensor, receiver: Tensor) -> Tensor:
        y = gather_rotate(sender, receiver, graph, 3, 1)
        return rotate_out(y.sin(), graph.rotation, 3, 1).square().sum()

    leaf = sender[0].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(function(leaf, receiver[0]), leaf)
    torch.testing.assert_close(grad(function)(sender[0], receiver[0]), wanted)
    looped = [function(s, r) for s, r in zip(sender, receiver, strict=True)]
    torch.testing.assert_close(vmap(function)(sender, receiver), torch.stack(looped))
    per_sample = [grad(function)(s, r) for s, r in zip(sender, receiver, strict=True)]
    torch.testing.assert_close(vmap(grad(function))(sender, receiver), torch.stack(per_sample))
