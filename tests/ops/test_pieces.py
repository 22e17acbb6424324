"""Work on edges and points in pieces is the same as in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops import pieces
from equiformer_pytorch.ops.pieces import over_points, over_receivers
from equiformer_pytorch.ops.rotate import gather_rotate
from equiformer_pytorch.ops.softmax import edge_softmax
from tests.models import build, example, relative, total
from tests.ops.graphs import SIZES, edge_graph, normal

OPTIONS = {
    "l2": {},
    "mlp": {"l2_dist_attention": False},
    "radius": {"valid_radius": 1.5, "attend_self": False, "l2_dist_attention": False},
    "neighbours": {"num_neighbors": 3},
    "reversible": {"reversible": True},
}


def everything(model, sample) -> dict[str, torch.Tensor]:
    model.zero_grad()
    coors = sample.coors.clone().requires_grad_()
    out, attn = model(sample.inputs, coors, return_all_degrees=True, return_attn=True)
    total(x.square().sum() for x in out.values()).backward()
    found = {f"degree {d}": x.detach() for d, x in out.items()} | {"coors": coors.grad}
    found |= {f"attention {i} {d}": w for i, layer in enumerate(attn) for d, (w, _) in enumerate(layer)}
    return found | {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("largest", [1, 2000, 20000])
@pytest.mark.parametrize("name", OPTIONS)
def test_in_pieces(monkeypatch, name, largest):
    model = build(**OPTIONS[name])
    sample = example(model, points=9)
    whole = everything(model, sample)
    calls = []
    monkeypatch.setattr(pieces, "LARGEST", largest)
    original = pieces.checkpoint
    monkeypatch.setattr(pieces, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    for key, x in everything(model, sample).items():
        assert relative(x, whole[key]) < 1e-9, key
    assert len(calls) > 2 or largest > 2000
    with torch.no_grad():
        for degree, x in sample.all_degrees(model).items():
            assert relative(x, whole[f"degree {degree}"]) < 1e-11


@pytest.mark.parametrize("kept", [False, True])
def test_second_order_in_pieces(monkeypatch, kept):
    model = build(depth=2)
    sample = example(model, points=5)

    def second() -> torch.Tensor:
        coors = sample.coors.clone().requires_grad_()
        energy = model(sample.inputs, coors).type0.square().sum()
        (force,) = torch.autograd.grad(energy, coors, create_graph=True)
        return torch.autograd.grad(force.square().sum(), coors)[0]

    whole = second()
    cuts = in_kept_pieces(monkeypatch) if kept else [(2, True)]
    if not kept:
        monkeypatch.setattr(pieces, "LARGEST", 1)
    assert relative(second(), whole) < 1e-9
    assert all(count > 1 and recorded for count, recorded in cuts)
    assert cuts


def in_kept_pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """As if no layer had weights or points to speak of; of each cut how many pieces, and whether it was recorded."""
    found = []
    original = EdgeGraph.pieces

    def seen(graph: EdgeGraph, most: int) -> list[tuple[slice, EdgeGraph]]:
        cut = original(graph, most)
        found.append((len(cut), torch.is_grad_enabled()))
        return cut

    monkeypatch.setattr(pieces, "_piece", lambda *_: (7, False))
    monkeypatch.setattr(pieces, "checkpoint", None)
    monkeypatch.setattr(EdgeGraph, "pieces", seen)
    return found


def test_torch_func_in_pieces(monkeypatch):
    """Transforms do not allow recomputation; they get their gradients all the same."""
    model = build(depth=1)
    sample = example(model, points=5)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def energy(coors: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (sample.inputs, coors)).type0.square().sum()

    whole = grad(energy)(sample.coors)
    monkeypatch.setattr(pieces, "LARGEST", 1)
    assert relative(grad(energy)(sample.coors), whole) < 1e-9


# The operations by themselves

LEAVES: tuple[str, ...] = ("sender", "receiver", "scalars", "envelope", "block")


def summed(graph: EdgeGraph, leaves: dict[str, Tensor], width: int = 18) -> tuple[Tensor, ...]:
    """Messages with attention weights, summed over the edges of each receiver; the weights of heads are summed, too."""
    graph = graph.with_tensors((leaves["scalars"], leaves["block"], leaves["envelope"], *(graph.slots or ())))

    def function(graph: EdgeGraph, receiver: Tensor, none: None) -> tuple[Tensor, Tensor]:
        assert graph.count == len(receiver)
        assert none is None
        message = gather_rotate(leaves["sender"], receiver, graph, 1)
        weights = edge_softmax(graph.scalars, graph, 1e-3)
        return graph.sum_receivers(message * weights.sum(1)[:, None, None]), graph.sum_receivers(weights)

    return over_receivers(function, graph, width, leaves["sender"].shape[0], [leaves["receiver"], None])


def made(name: str, table: bool) -> tuple[EdgeGraph, dict[str, Tensor]]:
    graph = edge_graph(SIZES[name], 3, table=table)
    scalars, block, envelope, *_ = graph.tensors()
    ends = (normal(graph.count, 9, 2, seed=seed) for seed in (0, 1))
    return graph, dict(zip(LEAVES, (*ends, scalars, envelope, block), strict=True))


def derivatives(function: Callable[..., tuple[Tensor, ...]], leaves: dict[str, Tensor]) -> Iterator[Tensor]:
    """Of two orders."""
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    found = list(function(leaves))
    for _ in range(2):
        loss = total(x.sin().sum() for x in found if x.requires_grad)
        found = list(torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True))
        yield from found


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("largest", [1, 36, 72])
@pytest.mark.parametrize("name", SIZES)
def test_over_receivers(monkeypatch: pytest.MonkeyPatch, name: str, largest: int, table: bool):
    graph, leaves = made(name, table)
    whole = [*summed(graph, leaves), *derivatives(lambda x: summed(graph, x), leaves)]
    monkeypatch.setattr(pieces, "LARGEST", largest)
    calls: list[int] = []
    original = pieces.checkpoint
    monkeypatch.setattr(pieces, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    with torch.no_grad():
        unrecorded = summed(graph, leaves)
    assert not calls, "nothing is computed again where nothing is recorded"
    for found, wanted in zip([*unrecorded, *derivatives(lambda x: summed(graph, x), leaves)], whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    assert len(calls) > 1 or sum(SIZES[name]) * 18 <= max(largest, 18)


def test_sizes_of_pieces(monkeypatch: pytest.MonkeyPatch):
    """Each gives gradients of all points and weights: it has two edges for each point, and as many numbers as weights
    have, unless that is too many; without gradients fewer do."""
    graph, seen, again = edge_graph([1] * 60), [], []

    def function(graph: EdgeGraph) -> tuple[Tensor]:
        seen.append(graph.count)
        return (graph.sum_receivers(graph.scalars),)

    def sizes(largest: int, reused: int, points: int, weights: int | None = 0) -> list[int]:
        seen.clear()
        again.clear()
        monkeypatch.setattr(pieces, "LARGEST", largest)
        monkeypatch.setattr(pieces, "REUSED", reused)
        monkeypatch.setattr(pieces, "checkpoint", lambda function, *given, **_: again.append(1) or function(*given))
        over_receivers(function, graph, 10, points, weights=weights)
        return list(seen)

    assert sizes(590, 50, 10) == [20, 20, 20]
    assert sizes(590, 50, 2) == [5] * 12
    assert sizes(200, 50, 60) == [20, 20, 20]
    assert again == [1] * 3
    # What is not too large is kept, in pieces all the same.
    assert sizes(600, 1200, 10) == [60]
    assert sizes(600, 1180, 10) == [30, 30]
    assert sizes(600, 50, 10) == [20, 20, 20]
    assert sizes(600, 50, 0, 200) == [20, 20, 20]
    assert sizes(600, 50, 0, 300) == [30, 30]
    assert sizes(600, 50, 0, 310) == [60]
    assert sizes(600, 50, 60) == [60]
    assert sizes(600, 50, 10, None) == [60]
    assert not again
    with torch.no_grad():
        assert sizes(600, 50, 10) == [5] * 12
        assert sizes(40, 50, 10) == [4] * 15
    assert not again


@pytest.mark.parametrize("receivers", [50, 64, 100])
def test_kept_pieces_are_of_whole_receivers(monkeypatch: pytest.MonkeyPatch, receivers: int):
    """So that none of one receiver is left over, which would give all the gradients for nothing."""
    graph, seen = edge_graph([16] * receivers, table=True), []

    def function(graph: EdgeGraph) -> tuple[Tensor]:
        seen.append(graph.count)
        return (graph.sum_receivers(graph.scalars),)

    monkeypatch.setattr(pieces, "REUSED", 2 * 10 * 16 * receivers // 3)
    over_receivers(function, graph, 10, 0, weights=0)
    assert len(seen) <= 4
    assert min(seen) > max(seen) // 2


@pytest.mark.parametrize("name", OPTIONS)
def test_pieces_that_are_kept(monkeypatch: pytest.MonkeyPatch, name: str):
    """Values and derivatives of a whole model are the same, and nothing is computed again."""
    model = build(**OPTIONS[name])
    sample = example(model, points=9)
    whole = everything(model, sample)
    cuts = in_kept_pieces(monkeypatch)
    for key, x in everything(model, sample).items():
        assert relative(x, whole[key]) < 1e-9, key
    recorded = [count for count, recorded in cuts if recorded]
    # The blocks that are run again for their gradients, too: each is cut once without and once with.
    assert len(recorded) > len(model.layers.blocks)
    assert min(recorded) > 1


def test_what_belongs_to_points_is_only_kept_once(monkeypatch: pytest.MonkeyPatch):
    """Of each piece nothing is kept but what is given."""
    graph, leaves = made("ragged", False)
    monkeypatch.setattr(pieces, "LARGEST", 1)
    kept: list[Tensor] = []
    given = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        summed(graph, given)
    # Beside views of what is given, ranges and the like; messages have three dimensions, the last of two channels.
    own = {x.untyped_storage().data_ptr() for x in given.values()}
    messages = [x for x in kept if x.dtype.is_floating_point and x.ndim == 3 and x.shape[2] == 2]
    assert all(x.untyped_storage().data_ptr() in own for x in messages)


@pytest.mark.parametrize("largest", [1, 8, 2**26])
@pytest.mark.parametrize("points", [0, 1, 7])
def test_over_points(monkeypatch: pytest.MonkeyPatch, points: int, largest: int):
    seen: list[int] = []
    weight = normal(3, 5, seed=3)

    def function(leaves: dict[str, Tensor]) -> tuple[Tensor]:
        def of_points(x: Tensor) -> Tensor:
            seen.append(len(x))
            return (x @ leaves["weight"]).tanh()

        return (over_points(of_points, leaves["x"], 4),)

    leaves = {"x": normal(points, 2, 3), "weight": weight}
    whole = [leaves["x"].matmul(weight).tanh(), *derivatives(lambda x: (x["x"].matmul(x["weight"]).tanh(),), leaves)]
    monkeypatch.setattr(pieces, "LARGEST", largest)
    for found, wanted in zip([*function(leaves), *derivatives(function, leaves)], whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    most = {1: 1, 8: 2}.get(largest, points)
    assert max(seen) == min(most, points)


def test_transforms_take_all_at_once(monkeypatch: pytest.MonkeyPatch):
    graph, leaves = made("ragged", False)
    x = normal(3, 4, 2)
    wanted = [grad(lambda x: summed(graph, {**leaves, "sender": x})[0].square().sum())(leaves["sender"])]
    wanted.append(vmap(lambda x: over_points(torch.sin, x, 4))(x))
    monkeypatch.setattr(pieces, "LARGEST", 1)
    monkeypatch.setattr(pieces, "checkpoint", None)
    found = [grad(lambda x: summed(graph, {**leaves, "sender": x})[0].square().sum())(leaves["sender"])]
    found.append(vmap(lambda x: over_points(torch.sin, x, 4))(x))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    graph = edge_graph(SIZES["ragged"], 3, dtype=dtype)
    x = [normal(5, 9, 2, seed=seed, dtype=dtype) for seed in (0, 1)]
    scalars, block, envelope = graph.tensors()
    leaves = dict(zip(LEAVES, (*x, scalars, envelope, block), strict=True))
    whole = summed(graph, leaves)
    monkeypatch.setattr(pieces, "LARGEST", 1)
    for part, wanted in zip(summed(graph, leaves), whole, strict=True):
        assert part.dtype == wanted.dtype == dtype
        torch.testing.assert_close(part, wanted)
