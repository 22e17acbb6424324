"""Flat graphs: the same numbers as dense, whatever the order; periodic images; PyG's objects; errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from equiformer_pytorch import Equiformer
from equiformer_pytorch.testing import assert_gradients
from tests import tolerances
from tests.models import KINDS, Example, build, example, over_inputs, relative, shake, squares

FLAT = [kind for kind in KINDS if "adjacency" not in kind]
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 1, 0]]).bool()


def all_pairs(batch: Tensor) -> Tensor:
    """(sender, receiver) of all pairs of different points of the same structure."""
    same = batch[:, None] == batch
    return (same & ~torch.eye(len(batch), dtype=torch.bool)).nonzero().T


def flatten(whole: Example, mask: Tensor) -> dict[str, Any]:
    """The real points of a dense example as the arguments of a flat call, with all edges."""
    batch, column = mask.nonzero().unbind(1)
    edge_index = all_pairs(batch)
    call = {
        "inputs": over_inputs(lambda x: x[mask], whole.inputs),
        "coors": whole.coors[mask],
        "batch": batch,
        "edge_index": edge_index,
    }
    if "edges" in whole.extra:
        senders, receivers = edge_index
        call["edge_attr"] = whole.extra["edges"][batch[receivers], column[receivers], column[senders]]
    if "condition" in whole.extra:
        call["condition"] = whole.extra["condition"]
    return call


def structure_of(call: dict[str, Any], structure: int) -> dict[str, Any]:
    """One structure of a flat call, as a single graph without `batch`."""
    mine = call["batch"] == structure
    place = mine.cumsum(0) - 1
    edges = mine[call["edge_index"][1]]
    single = {
        "inputs": over_inputs(lambda x: x[mine], call["inputs"]),
        "coors": call["coors"][mine],
        "edge_index": place[call["edge_index"][:, edges]],
    }
    if "edge_attr" in call:
        single["edge_attr"] = call["edge_attr"][edges]
    if "condition" in call:
        single["condition"] = call["condition"][structure : structure + 1]
    return single


def shuffled(call: dict[str, Any], points: Tensor, edges: Tensor) -> dict[str, Any]:
    """The same graphs with points and edges in another order."""
    place = torch.empty_like(points)
    place[points] = torch.arange(len(points))
    other = {
        "inputs": over_inputs(lambda x: x[points], call["inputs"]),
        "coors": call["coors"][points],
        "batch": call["batch"][points],
        "edge_index": place[call["edge_index"][:, edges]],
    }
    for name in ("edge_attr", "cell_offsets"):
        if name in call:
            other[name] = call[name][edges]
    return {**call, **other}


def close(actual: Any, expected: Any) -> None:
    for degree, x in expected.items():
        assert actual[degree].shape == x.shape
        assert (actual[degree] - x).abs().sum() == 0 or (actual[degree] - x).abs().max() <= tolerances.ISOLATION


def model_and_call(kind: str, **options: Any) -> tuple[Equiformer, Example, dict[str, Any]]:
    model = build(**{**KINDS[kind], **options})
    whole = example(model, batch=4, points=6)
    return model, whole, flatten(whole, MASK)


@pytest.mark.parametrize("kind", FLAT)
def test_flat_equals_dense(kind):
    """Values, means, attention and gradients; edges given, and looked for where no features come with them."""
    model, whole, call = model_and_call(kind)
    options = {"return_all_degrees": True, "return_attn": True}
    whole.coors.requires_grad_()
    expected, expected_attn = model(whole.inputs, whole.coors, MASK, **whole.extra, **options)
    (gradient,) = torch.autograd.grad(squares(expected), whole.coors)
    # A cap on the neighbours is a rule for looking: given edges are attended to, all of them.
    ways = [call] if model.num_neighbors > 5 else []
    if "edge_attr" not in call:
        ways.append({**call, "edge_index": None})
    assert ways
    for way in ways:
        coors = way["coors"].detach().requires_grad_()
        out, attn = model(**{**way, "coors": coors}, **options)
        close(out, {degree: x[MASK] for degree, x in expected.items()})
        (flat_gradient,) = torch.autograd.grad(squares(out), coors)
        assert relative(flat_gradient, gradient[MASK]) <= tolerances.SAME_GRADIENT[torch.float64]
        pooled = model(**way, return_pooled=True, return_all_degrees=True)
        extra = {**whole.extra, "return_pooled": True, "return_all_degrees": True}
        close(pooled, model(whole.inputs, whole.coors, MASK, **extra))
        for layer, expected_layer in zip(attn, expected_attn, strict=True):
            for (weights, _), (expected_weights, _) in zip(layer, expected_layer, strict=True):
                assert weights.shape == (len(coors), *expected_weights.shape[2:])
                assert relative(weights, expected_weights[MASK]) <= tolerances.SAME_VALUE


def test_outputs_have_the_form_of_the_docstring():
    for reduce in (False, True):
        model, _, call = model_and_call("l2", reduce_dim_out=reduce)
        points = len(call["coors"])
        for pooled, rows in ((False, points), (True, 4)):
            out = model(**call, return_pooled=pooled)
            assert out.type0.shape == ((rows,) if reduce else (rows, 6))
            assert out.type1.shape == ((rows, 3) if reduce else (rows, 4, 3))


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", FLAT)
def test_a_batch_gives_what_its_graphs_give_one_by_one(kind, given):
    model, _, call = model_and_call(kind)
    if not given:
        if "edge_attr" in call:
            return
        call["edge_index"] = None
    together = model(**call, return_all_degrees=True)
    pooled = model(**call, return_all_degrees=True, return_pooled=True)
    whole = call if given else {**call, "edge_index": all_pairs(call["batch"])}
    for structure in range(4):
        single = structure_of(whole, structure)
        if not given:
            single |= {"edge_index": None, "batch": torch.zeros(len(single["coors"]), dtype=torch.long)}
        alone = model(**single, return_all_degrees=True)
        mine = call["batch"] == structure
        close({degree: x[mine] for degree, x in together.items()}, alone)
        close({degree: x[structure] for degree, x in pooled.items()}, {d: x.mean(0) for d, x in alone.items()})


@pytest.mark.parametrize("kind", FLAT)
def test_the_order_of_points_and_edges_changes_nothing(kind):
    model, _, call = model_and_call(kind, num_neighbors=100)
    expected = model(**call, return_all_degrees=True)
    pooled = model(**call, return_all_degrees=True, return_pooled=True)
    points, edges = torch.randperm(len(call["batch"])), torch.randperm(call["edge_index"].shape[1])
    other = shuffled(call, points, edges)
    assert (other["batch"].diff() < 0).any()
    close(model(**other, return_all_degrees=True), {degree: x[points] for degree, x in expected.items()})
    close(model(**other, return_all_degrees=True, return_pooled=True), pooled)
    if "edge_attr" not in call:
        found = model(**{**other, "edge_index": None}, return_all_degrees=True)
        close(found, {degree: x[points] for degree, x in expected.items()})


def test_attention_names_the_callers_points():
    """Each slot refers to a point of the caller's, in whatever order those are: the sender of that edge."""
    model, _, call = model_and_call("mlp")
    points = torch.randperm(len(call["batch"]))
    call = shuffled(call, points, torch.arange(call["edge_index"].shape[1]))
    _, attn = model(**call, return_attn=True)
    senders, receivers = call["edge_index"]
    for layer in attn:
        for weights, indices in layer:
            for point in range(len(points)):
                row = indices[point]
                assert row[0] == point
                assert set(row[1:].tolist()) - {-1} == set(senders[receivers == point].tolist())
                assert (weights[point][:, row < 0] == 0).all()
                assert (weights[point][:, row >= 0] > 0).all()


def test_an_edge_attribute_follows_its_edge():
    model, _, call = model_and_call("l2-edges", depth=0)
    before = model(**call).type0
    call["edge_attr"][7] += 1
    changed = ((model(**call).type0 - before).abs().amax(1) > 1e-9).nonzero().flatten()
    assert changed.tolist() == [call["edge_index"][1, 7]]


def test_given_edges_are_the_only_ones():
    """Sender to receiver, not back; beyond the radius they weigh nothing; listed twice they count twice."""
    model = build(depth=0, valid_radius=3.0)
    coors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2.9, 0], [0, 3.1, 0]]).double()
    feats = torch.randn(4, 5).double()

    def type0(*edges: tuple[int, int]) -> Tensor:
        return model(feats, coors, edge_index=torch.tensor(edges).long().view(-1, 2).T).type0

    nothing = type0()
    one = (type0((1, 0)) - nothing).abs().amax(1)
    assert one[0] > 1e-3
    assert one[1:].max() == 0
    assert (type0((2, 0)) - nothing)[0].abs().max() > 0
    assert (type0((3, 0)) - nothing).abs().max() == 0
    assert (type0((1, 0), (1, 0)) - type0((1, 0)))[0].abs().max() > 1e-3


def test_points_without_edges_and_structures_without_points():
    model = build(num_linear_attn_heads=2)
    feats, coors = torch.randn(4, 5).double(), torch.randn(4, 3).double().requires_grad_()
    none = torch.zeros(2, 0, dtype=torch.long)
    cell, offsets = torch.eye(3).expand(4, 3, 3).double(), torch.zeros(0, 3)
    call = {"batch": torch.tensor([2, 0, 2, 0]), "edge_index": none, "cell": cell, "cell_offsets": offsets}
    out = model(feats, coors, **call, return_pooled=True)
    assert out.type0.shape == (4, 6)
    assert (out.type0[[1, 3]] == 0).all()
    assert out.type0.isfinite().all()
    lone = model(feats[:1], coors[:1], edge_index=none)
    (force,) = torch.autograd.grad(lone.type0.sum(), coors, allow_unused=True)
    assert force is None or (force == 0).all()
    for structures in (0, 3):
        empty = model(feats[:0], coors[:0], batch=torch.zeros(0, dtype=torch.long), return_all_degrees=True)
        assert empty[2].shape == (0, 3, 5)
        cells = {"cell": cell[:structures], "cell_offsets": offsets, "edge_index": none}
        out = model(feats[:0], coors[:0], batch=none[0], **cells, return_pooled=True)
        assert out.type0.shape == (structures, 6)


def test_positions_count_from_the_start_of_each_structure():
    model = build(num_positions=6)
    whole = example(model, batch=2, points=6)
    expected = model(whole.inputs, whole.coors, return_all_degrees=True)
    call = flatten(whole, torch.ones(2, 6, dtype=torch.bool))
    order = torch.tensor([6, 7, 0, 1, 8, 2, 9, 3, 10, 4, 11, 5])
    call = shuffled(call, order, torch.arange(call["edge_index"].shape[1]))
    out = model(**call, return_all_degrees=True)
    close(out, {degree: x.flatten(0, 1)[order] for degree, x in expected.items()})
    with pytest.raises(ValueError, match="num_positions = 6"):
        model(**{**call, "batch": torch.zeros(12, dtype=torch.long)})


# Periodic images


def crystal(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates, a cell, and all edges within 2.5 with their offsets, found by looking at every image."""
    g = torch.Generator().manual_seed(seed)
    cell = 2 * torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(3, 3, generator=g, dtype=torch.float64)
    coors = torch.rand(3, 3, generator=g, dtype=torch.float64) @ cell
    images = torch.cartesian_prod(*[torch.arange(-3, 4)] * 3)
    vectors = coors[None, :, None] + images.double() @ cell - coors[:, None, None]
    receivers, senders, image = (vectors.norm(dim=-1) < 2.5).nonzero().unbind(1)
    edge = (receivers != senders) | (images[image] != 0).any(1)
    return coors, cell, torch.stack((senders, receivers))[:, edge], images[image][edge]


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_a_supercell_gives_what_its_cell_gives(kind):
    model = build(**KINDS[kind], valid_radius=2.5)
    coors, cell, edge_index, offsets = crystal()
    feats = torch.randn(3, 5).double()
    expected = model(feats, coors, edge_index=edge_index, cell=cell, cell_offsets=offsets, return_all_degrees=True)
    # Twice along the first axis: an image an odd number of cells away is a point of the other half.
    doubled = cell * torch.tensor([[2.0], [1], [1]])
    halves = []
    for half in range(2):
        across = offsets[:, 0] + half
        new_offsets = torch.cat((across.div(2, rounding_mode="floor")[:, None], offsets[:, 1:]), dim=1)
        halves.append((torch.stack((edge_index[0] + 3 * (across % 2), edge_index[1] + 3 * half)), new_offsets))
    out = model(
        feats.repeat(2, 1),
        torch.cat((coors, coors + cell[0])),
        edge_index=torch.cat([e for e, _ in halves], dim=1),
        cell=doubled[None],
        cell_offsets=torch.cat([o for _, o in halves]),
        return_all_degrees=True,
    )
    close(out, {degree: x.repeat(2, 1, 1) for degree, x in expected.items()})
    # And in a batch with another crystal, the points in any order.
    other, other_cell, other_edges, other_offsets = crystal(1)
    call = {
        "inputs": torch.cat((feats, torch.randn(3, 5).double())),
        "coors": torch.cat((coors, other)),
        "batch": torch.tensor([0] * 3 + [1] * 3),
        "edge_index": torch.cat((edge_index, other_edges + 3), dim=1),
        "cell": torch.stack((cell, other_cell)),
        "cell_offsets": torch.cat((offsets, other_offsets)),
    }
    points = torch.tensor([4, 0, 5, 2, 1, 3])
    together = model(**shuffled(call, points, torch.randperm(len(call["cell_offsets"]))), return_all_degrees=True)
    close({degree: x[points < 3] for degree, x in together.items()}, {d: x[[0, 2, 1]] for d, x in expected.items()})
    # As PyG puts (3, 3) matrices together.
    rows = model(**{**call, "cell": call["cell"].flatten(0, 1)}, return_all_degrees=True)
    close({degree: x[:3] for degree, x in rows.items()}, expected)


def test_gradients_flow_into_coordinates_and_cell():
    model = build(valid_radius=2.5, depth=1, num_degrees=2, dim=(4, 3))
    coors, cell, edge_index, offsets = crystal()
    feats = torch.randn(3, 5).double()

    def energy(coors: Tensor, cell: Tensor) -> Tensor:
        call = {"edge_index": edge_index, "cell": cell, "cell_offsets": offsets}
        return model(feats, coors, **call).type0.square().sum()

    assert_gradients(energy, {"coors": coors, "cell": cell})


# PyG's objects


class Stand:
    """What PyG's `Data` looks like from outside: attributes, None or missing where there is nothing."""

    batch = edge_index = edge_attr = None

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


def test_a_data_object_is_the_call_it_holds():
    model, _, call = model_and_call("mlp-bonds")
    expected = model(**call)
    held = {name: x for name, x in call.items() if name not in ("inputs", "coors")}
    for kind in (Stand, SimpleNamespace):
        out = model(kind(x=call["inputs"], pos=call["coors"], y=torch.zeros(1), **held))
        assert out.type0.equal(expected.type0)
    # A column of tokens for each edge, too.
    out = model(Stand(x=call["inputs"], pos=call["coors"], **{**held, "edge_attr": call["edge_attr"][:, None]}))
    assert out.type0.equal(expected.type0)
    pooled = model(Stand(x=call["inputs"], pos=call["coors"], num_graphs=6, **held), return_pooled=True)
    assert pooled.type0.shape == (6, 6)


def test_tokens_of_a_data_object():
    model = build(num_tokens=9)
    tokens, coors = torch.randint(0, 9, (7,)), torch.randn(7, 3).double()
    expected = model(tokens, coors, batch=torch.zeros(7).long()).type0
    for held in ({"z": tokens}, {"x": tokens}, {"x": tokens[:, None]}, {"z": tokens, "x": torch.randn(7, 5)}):
        # Attributes of edges that the model has no use for are left aside, like anything else in the object.
        assert model(Stand(pos=coors, edge_attr=torch.randn(3, 2), **held)).type0.equal(expected)
    floats = build()
    x = torch.randn(7, 5).double()
    out = floats(Stand(pos=coors, x=x, z=tokens)).type0
    assert out.equal(floats(x, coors, batch=torch.zeros(7).long()).type0)
    with pytest.raises(ValueError, match=r"x or z"):
        model(Stand(pos=coors))
    with pytest.raises(ValueError, match="coors is given twice"):
        model(Stand(pos=coors, z=tokens), coors)
    with pytest.raises(ValueError, match="edge_index is given twice"):
        model(Stand(pos=coors, z=tokens), edge_index=torch.zeros(2, 0).long())


def test_the_real_torch_geometric():
    pytest.importorskip("torch_geometric", reason="needs the extra pyg", exc_type=ImportError)
    from torch_geometric.data import Batch, Data  # pyright: ignore[reportMissingImports]  (not a dependency)

    model = build(num_tokens=9, edge_dim=2)
    graphs = []
    for points in (3, 1, 5):
        pairs = all_pairs(torch.zeros(points))
        coors, offsets = torch.randn(points, 3).double(), torch.randint(-1, 2, (pairs.shape[1], 3))
        edges = {"edge_index": pairs, "edge_attr": torch.randn(pairs.shape[1], 2).double(), "cell_offsets": offsets}
        graphs.append(Data(z=torch.randint(0, 9, (points,)), pos=coors, cell=torch.randn(1, 3, 3).double(), **edges))
    together = model(Batch.from_data_list(graphs), return_all_degrees=True)
    alone = [model(graph, return_all_degrees=True) for graph in graphs]
    close(together, {degree: torch.cat([out[degree] for out in alone]) for degree in alone[0]})
    plain = build(num_tokens=9)
    out = plain(Data(z=graphs[2].z, pos=graphs[2].pos))
    assert out.type0.equal(plain(graphs[2].z[None], graphs[2].pos[None]).type0[0])


# Errors

POINTS = 5
FLOATS = {"inputs": torch.randn(POINTS, 5), "coors": torch.randn(POINTS, 3)}
BATCHED = {**FLOATS, "batch": torch.tensor([0, 0, 0, 1, 1])}
EDGES = torch.tensor([[0, 1, 4], [1, 2, 3]])
GIVEN = {**BATCHED, "edge_index": EDGES}
OFFSETS = {"cell": torch.eye(3).expand(2, 3, 3), "cell_offsets": torch.zeros(3, 3).long()}
DENSE = {"inputs": torch.randn(2, POINTS, 5), "coors": torch.randn(2, POINTS, 3)}
NAN = float("nan")

CALLS = [
    ({}, FLOATS, ValueError, ["coors", "(5, 3)", "batch", "edge_index"]),
    ({}, {**FLOATS, **OFFSETS}, ValueError, ["pass batch"]),
    ({}, {**BATCHED, "mask": torch.ones(POINTS)}, ValueError, ["mask", "dense", "(5, 3)"]),
    ({}, {**BATCHED, "adj_mat": torch.ones(POINTS, POINTS)}, ValueError, ["adj_mat", "dense", "(5, 3)"]),
    ({"edge_dim": 1}, {**BATCHED, "edges": torch.ones(POINTS, POINTS, 1)}, ValueError, ["edges", "dense", "(5, 3)"]),
    ({}, {**DENSE, "batch": torch.zeros(2)}, ValueError, ["batch", "flat", "(2, 5, 3)"]),
    ({}, {**DENSE, "edge_index": EDGES}, ValueError, ["edge_index", "flat", "(2, 5, 3)"]),
    ({}, {**DENSE, "edge_attr": EDGES}, ValueError, ["edge_attr", "flat", "(2, 5, 3)"]),
    ({}, {**DENSE, "cell": EDGES}, ValueError, ["cell", "flat", "(2, 5, 3)"]),
    ({}, {**DENSE, "cell_offsets": EDGES}, ValueError, ["cell_offsets", "flat", "(2, 5, 3)"]),
    ({}, {**BATCHED, "coors": torch.randn(POINTS, 2)}, ValueError, ["coors", "(5, 2)", "3"]),
    ({}, {**BATCHED, "coors": torch.full((POINTS, 3), NAN)}, ValueError, ["coors", "finite", "nan"]),
    ({}, {**BATCHED, "inputs": torch.randn(POINTS, 4)}, ValueError, ["inputs", "(5, 4)", "(5, 5)"]),
    ({}, {**BATCHED, "inputs": torch.randn(POINTS + 1, 5)}, ValueError, ["inputs", "(6, 5)", "(5, 5)"]),
    ({"num_tokens": 3}, {**BATCHED, "inputs": torch.full((POINTS,), 3)}, ValueError, ["inputs", "0 … 2"]),
    ({}, {**BATCHED, "batch": torch.zeros(POINTS + 1).long()}, ValueError, ["batch", "(6,)", "(5,)"]),
    ({}, {**BATCHED, "batch": torch.zeros(POINTS)}, TypeError, ["batch", "integers", "float32"]),
    ({}, {**BATCHED, "batch": [0] * POINTS}, TypeError, ["batch", "list"]),
    ({}, {**BATCHED, "batch": BATCHED["batch"] - 1}, ValueError, ["batch", "from -1"]),
    ({}, {**GIVEN, "edge_index": EDGES.T}, ValueError, ["edge_index", "(3, 2)", "(2, edges)"]),
    ({}, {**GIVEN, "edge_index": EDGES.float()}, TypeError, ["edge_index", "integers", "float32"]),
    ({}, {**GIVEN, "edge_index": EDGES + 1}, ValueError, ["edge_index", "0 … 4", "to 5"]),
    ({}, {**GIVEN, "edge_index": EDGES - 1}, ValueError, ["edge_index", "0 … 4", "from -1"]),
    ({}, {**GIVEN, "edge_index": torch.tensor([[1], [1]])}, ValueError, ["edge_index", "itself", "point 1"]),
    ({}, {**GIVEN, "edge_index": torch.tensor([[1], [3]])}, ValueError, ["edge_index", "batch", "from 1 to 3"]),
    ({}, {**GIVEN, "edge_attr": torch.randn(3, 2)}, ValueError, ["edge_attr", "ignored", "edge_dim"]),
    ({}, {**BATCHED, "edge_attr": torch.randn(3, 2)}, ValueError, ["edge_attr", "edge_index"]),
    ({"edge_dim": 2}, GIVEN, ValueError, ["edge_attr", "missing", "edge_dim = 2"]),
    ({"edge_dim": 2}, BATCHED, ValueError, ["edge_index", "edge_attr", "missing", "edge_dim = 2"]),
    ({"edge_dim": 2}, {**GIVEN, "edge_attr": torch.randn(3, 3)}, ValueError, ["edge_attr", "(3, 3)", "(3, 2)"]),
    ({"edge_dim": 2}, {**GIVEN, "edge_attr": torch.randn(4, 2)}, ValueError, ["edge_attr", "(4, 2)", "(3, 2)"]),
    ({"edge_dim": 2}, {**GIVEN, "edge_attr": EDGES.T}, TypeError, ["edge_attr", "floating", "int64"]),
    (
        {"edge_dim": 2, "num_edge_tokens": 3},
        {**GIVEN, "edge_attr": torch.tensor([0, 1, 3])},
        ValueError,
        ["edge_attr", "0 … 2", "to 3"],
    ),
    (
        {"edge_dim": 2, "num_edge_tokens": 3},
        {**GIVEN, "edge_attr": torch.randn(3)},
        TypeError,
        ["edge_attr", "integers", "float32"],
    ),
    ({}, {**GIVEN, "cell": OFFSETS["cell"]}, ValueError, ["cell_offsets", "missing"]),
    ({}, {**GIVEN, "cell_offsets": OFFSETS["cell_offsets"]}, ValueError, ["cell is missing"]),
    ({}, {**BATCHED, "cell": OFFSETS["cell"]}, ValueError, ["cell", "edge_index", "radius_graph"]),
    ({}, {**GIVEN, **OFFSETS, "cell": torch.eye(3)}, ValueError, ["batch", "0 … 0", "to 1"]),
    ({}, {**GIVEN, **OFFSETS, "cell": torch.eye(4)}, ValueError, ["cell", "(4, 4)"]),
    ({}, {**GIVEN, **OFFSETS, "cell": torch.eye(3).long()}, TypeError, ["cell", "floating", "int64"]),
    ({}, {**GIVEN, **OFFSETS, "cell": torch.full((2, 3, 3), NAN)}, ValueError, ["cell", "finite"]),
    ({}, {**GIVEN, **OFFSETS, "cell_offsets": torch.zeros(4, 3)}, ValueError, ["cell_offsets", "(4, 3)", "(3, 3)"]),
    ({}, {**GIVEN, **OFFSETS, "cell_offsets": torch.full((3, 3), 0.5)}, ValueError, ["cell_offsets", "whole"]),
    ({}, {**FLOATS, "edge_index": EDGES, **OFFSETS}, ValueError, ["batch is missing", "2 structures"]),
    ({"attend_sparse_neighbors": True}, GIVEN, ValueError, ["adj_mat", "attend_sparse_neighbors", "edge_index"]),
    ({"adj_dim": 2, "num_adj_degrees_embed": 2}, GIVEN, ValueError, ["adj_mat", "adj_dim", "edge_index"]),
]


@pytest.mark.parametrize("index", range(len(CALLS)))
@pytest.mark.unchecked
def test_errors(index):
    options, call, error, words = CALLS[index]
    with pytest.raises(error) as caught:
        build(torch.float32, **options)(**call)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value!s}"


def test_an_image_of_a_point_is_no_edge_to_itself():
    call = {"cell": torch.eye(3), "cell_offsets": torch.tensor([[1, 0, 0]]), "edge_index": torch.tensor([[1], [1]])}
    assert build(torch.float32)(**FLOATS, **call).type0.isfinite().all()


def test_the_callers_tensors_stay_as_they_are():
    model, _, call = model_and_call("mlp-bonds")
    call = shuffled(call, torch.randperm(len(call["batch"])), torch.randperm(call["edge_index"].shape[1]))
    before = {name: x.clone() for name, x in call.items()}
    model(**call)
    assert all(x.equal(before[name]) for name, x in call.items())


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_indices_of_any_integer_dtype(dtype):
    model, _, call = model_and_call("l2")
    cast = {**call, "batch": call["batch"].to(dtype), "edge_index": call["edge_index"].to(dtype)}
    assert model(**cast).type0.equal(model(**call).type0)


def test_half_precision_parameters():
    model, _, call = model_and_call("l2")
    expected = model(**call).type0
    low = shake(model, 0).to(torch.bfloat16)(**call).type0
    assert low.dtype == torch.bfloat16
    assert relative(low, expected) < tolerances.LOW_PRECISION[torch.bfloat16]
