"""Promise 5: derived degrees are graph distances, embedded; capped choices are deterministic and independent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiformer_pytorch.graph.nearest import graph_distances
from tests import tolerances
from tests.models import Example, build, example, grad_of, squares

SPARSE = {"attend_sparse_neighbors": True, "num_neighbors": 0, "attend_self": False, "depth": 1}


def breadth_first(adjacency: torch.Tensor, largest: int) -> torch.Tensor:
    """Steps from each point to each other; 0 for itself and for what is farther."""
    n = len(adjacency)
    steps = torch.zeros(n, n, dtype=torch.long)
    for start in range(n):
        seen, border = {start}, {start}
        for step in range(1, largest + 1):
            border = {j for i in border for j in range(n) if adjacency[i, j]} - seen
            seen |= border
            for j in border:
                steps[start, j] = step
    return steps


@given(data=st.data())
def test_derived_degrees_are_graph_distances(data):
    """Of any directed graph, with or without points connected to themselves."""
    n, largest = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    bits = data.draw(st.lists(st.booleans(), min_size=2 * n * n, max_size=2 * n * n))
    adjacency = torch.tensor(bits).view(2, n, n)
    expected = torch.stack([breadth_first(a, largest) for a in adjacency])
    assert graph_distances(adjacency, largest).equal(expected)


def path_graph(n: int) -> torch.Tensor:
    i = torch.arange(n)
    return (i[:, None] - i).abs() <= 1  # with every point's own entry, as the README has it


def neighbours_of(model, sample) -> list[list[set[int]]]:
    _, attn = model(sample.inputs, sample.coors, **sample.extra, return_attn=True)
    return [[{i for i in row.tolist() if i >= 0} for row in structure] for structure in attn[0][0].indices]


def test_only_connected_points_are_neighbours():
    model = build(**SPARSE)
    sample = example(model, points=6)
    sample.extra["adj_mat"] = path_graph(6)
    for structure in neighbours_of(model, sample):
        for i, found in enumerate(structure):
            assert found == {i - 1, i + 1} & set(range(6))


@pytest.mark.parametrize("degrees", [1, 2, 3])
def test_derived_degrees_are_neighbours_too(degrees):
    model = build(**SPARSE, num_adj_degrees_embed=degrees)
    sample = example(model, points=7)
    sample.extra["adj_mat"] = path_graph(7)
    for structure in neighbours_of(model, sample):
        for i, found in enumerate(structure):
            assert found == {j for j in range(7) if 0 < abs(i - j) <= degrees}


def test_nearest_points_beside_the_connected_ones():
    model = build(**{**SPARSE, "num_neighbors": 2})
    sample = example(model, points=7)
    sample.extra["adj_mat"] = path_graph(7)
    distance = torch.cdist(sample.coors, sample.coors)
    for b, structure in enumerate(neighbours_of(model, sample)):
        for i, found in enumerate(structure):
            connected = {i - 1, i + 1} & set(range(7))
            others = sorted(set(range(7)) - connected - {i}, key=lambda j: distance[b, i, j])
            assert found == connected | set(others[:2])


def test_points_that_are_not_attended_to_change_nothing():
    model = build(**SPARSE)
    sample = example(model, batch=1, points=5)
    sample.extra["adj_mat"] = path_graph(5)
    before = sample.all_degrees(model)
    sample.inputs[0, 4] += 1
    sample.coors[0, 4] += 1
    after = sample.all_degrees(model)
    for degree in before:
        # Two hops: one in the embedding, one in the only layer.
        assert (after[degree][0, :2] - before[degree][0, :2]).abs().max() <= tolerances.ISOLATION
        assert (after[degree][0, 2:4] - before[degree][0, 2:4]).abs().amax((1, 2)).min() > 1e-6


@pytest.mark.parametrize("attention", [True, False])
def test_the_distance_is_embedded(attention):
    """Two graphs with the same neighbours at other graph distances give other results; only with `adj_dim`."""
    options = {"attend_sparse_neighbors": True, "num_neighbors": 0, "num_adj_degrees_embed": 3}
    ring = path_graph(4) | path_graph(4).roll((1, 1), (0, 1))
    assert (graph_distances(path_graph(4)[None], 3) > 0).equal(graph_distances(ring[None], 3) > 0)
    for adj_dim in (0, 3):
        model = build(**options, adj_dim=adj_dim, l2_dist_attention=attention)
        sample = example(model, points=4)
        path, closed = (
            Example(sample.inputs, sample.coors, {"adj_mat": a}).all_degrees(model) for a in (path_graph(4), ring)
        )
        for degree in path:
            difference = (path[degree] - closed[degree]).abs().max()
            assert (difference > 1e-4) if adj_dim else (difference < tolerances.ISOLATION)


def test_every_derived_degree_has_an_embedding_of_its_own():
    model = build(attend_sparse_neighbors=True, num_neighbors=1, num_adj_degrees_embed=3, adj_dim=2)
    sample = example(model, points=6)
    sample.extra["adj_mat"] = path_graph(6)
    assert model.edge_features.adjacency is not None
    table = model.edge_features.adjacency.weight
    squares(sample.all_degrees(model)).backward()
    assert table.shape == (4, 2)  # not connected, and 1 … 3 steps
    assert (grad_of(table).abs().amax(1) > 0).all()


def test_embedded_without_sparse_attention():
    """`adj_dim` alone: everything is attended to, the graph distance is a feature of the edge."""
    model = build(num_adj_degrees_embed=2, adj_dim=3)
    sample = example(model, points=5)
    sample.extra["adj_mat"] = path_graph(5)
    assert neighbours_of(model, sample)[0][0] == {0, 1, 2, 3, 4}
    one = sample.all_degrees(model)
    sample.extra["adj_mat"] = torch.zeros(5, 5, dtype=torch.bool)
    two = sample.all_degrees(model)
    assert (one[0] - two[0]).abs().max() > 1e-4


def test_cap_takes_fewest_steps_first_then_nearest():
    model = build(**SPARSE, num_adj_degrees_embed=2, max_sparse_neighbors=3)
    sample = example(model, batch=1, points=7)
    sample.extra["adj_mat"] = path_graph(7)
    distance = torch.cdist(sample.coors, sample.coors)[0]
    for i, found in enumerate(neighbours_of(model, sample)[0]):
        wanted = sorted(
            (j for j in range(7) if 0 < abs(i - j) <= 2),
            key=lambda j: (abs(i - j), distance[i, j]),
        )
        assert found == set(wanted[:3])


@pytest.mark.parametrize("cap", [0, 1, 2, 5, 100])
def test_capped_choice_is_deterministic_and_independent_of_the_batch(cap):
    model = build(**{**SPARSE, "depth": 2, "num_neighbors": 1}, max_sparse_neighbors=cap)
    sample = example(model, batch=3, points=6)
    dense = torch.rand(3, 6, 6) < 0.7
    sample.extra["adj_mat"] = dense
    together = sample.all_degrees(model)
    again = sample.all_degrees(model)
    torch.manual_seed(99)
    for s in (2, 0):
        # Alone, and beside itself moved far away: the order of the choice must not look at the others.
        apart = sample.coors[[s, 1]] * torch.tensor([1.0, 1e3])[:, None, None]
        company = Example(sample.inputs[[s, 1]], apart, {"adj_mat": dense[[s, 1]]})
        single = Example(sample.inputs[[s]], sample.coors[[s]], {"adj_mat": dense[[s]]})
        for which in (single, company):
            out = which.all_degrees(model)
            for degree, x in together.items():
                assert (out[degree][0] - x[s]).abs().max() <= tolerances.ISOLATION
    for degree, x in together.items():
        assert again[degree].equal(x)


def test_ties_are_broken_by_position_in_any_batch():
    """A regular lattice: all distances equal many times over."""
    model = build(**{**SPARSE, "num_neighbors": 2}, max_sparse_neighbors=2)
    sample = example(model, batch=2, points=8)
    sample.coors[:] = torch.cartesian_prod(*[torch.arange(2.0)] * 3).double()
    sample.extra["adj_mat"] = torch.ones(2, 8, 8, dtype=torch.bool)
    sample.extra["adj_mat"][:, :, ::3] = False
    first, second = neighbours_of(model, sample)
    assert first == second
    scaled = Example(sample.inputs, sample.coors * 4, sample.extra)
    assert neighbours_of(model, scaled)[0] == first


def test_direction_row_receives_from_column():
    model = build(**SPARSE)
    sample = example(model, batch=1, points=3)
    sample.extra["adj_mat"] = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()
    assert neighbours_of(model, sample) == [[{1}, set(), set()]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("batched", [True, False])
def test_dtypes_and_shapes(dtype, batched):
    model = build(**SPARSE)
    sample = example(model)
    matrix = path_graph(7)
    expected = Example(sample.inputs, sample.coors, {"adj_mat": matrix}).all_degrees(model)
    matrix = matrix.to(dtype).expand(2, 7, 7) if batched else matrix.to(dtype)
    for degree, x in Example(sample.inputs, sample.coors, {"adj_mat": matrix}).all_degrees(model).items():
        assert x.equal(expected[degree])


@pytest.mark.parametrize("filler", [-1.0, 7.0, float("nan")])
@pytest.mark.parametrize(
    "real", [[[1] * 5 + [0] * 2, [1] * 6 + [0]], [[1] * 5 + [0] * 2, [0] * 7], [[1] * 5 + [0] * 2] * 2]
)
def test_entries_of_masked_points_may_hold_anything(filler, real):
    model = build(**SPARSE)
    sample = example(model)
    mask = torch.tensor(real).bool()
    matrix = path_graph(7).float()
    expected = Example(sample.inputs, sample.coors, {"adj_mat": matrix, "mask": mask}).all_degrees(model)
    filled = torch.where(mask[:, :, None] & mask[:, None], matrix, filler)
    for degree, x in Example(sample.inputs, sample.coors, {"adj_mat": filled, "mask": mask}).all_degrees(model).items():
        assert x.equal(expected[degree])
    with pytest.raises(ValueError, match="adj_mat must hold booleans"):
        model(sample.inputs, sample.coors, mask, adj_mat=filled.index_fill(1, torch.tensor([0]), 2.0))


@pytest.mark.parametrize("options", [{}, {"num_adj_degrees_embed": 2}])
def test_an_ignored_matrix_is_an_error(options):
    model = build(**options)
    sample = example(model)
    with pytest.raises(ValueError, match="adj_mat"):
        model(sample.inputs, sample.coors, adj_mat=path_graph(7))


def test_the_embedded_distance_is_that_from_receiver_to_sender():
    model = build(num_adj_degrees_embed=2, adj_dim=3, depth=0)
    sample = example(model, batch=1, points=4)
    sample.extra["adj_mat"] = torch.zeros(4, 4, dtype=torch.bool)
    none = sample.all_degrees(model)[0]
    sample.extra["adj_mat"][1, 3] = True
    changed = (sample.all_degrees(model)[0] - none).abs().amax((2, 3)) > 1e-9
    assert changed.nonzero().tolist() == [[0, 1]]
