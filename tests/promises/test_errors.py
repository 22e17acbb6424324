"""Promise 10: what is wrong with a call or a constructor is said by name, with what came and what is wanted."""

import math
import re
from typing import Any

import pytest
import torch

from equiformer_pytorch import Equiformer
from tests.models import build

pytestmark = pytest.mark.unchecked

N = 5
FLOATS = {"inputs": torch.randn(2, N, 5).double(), "coors": torch.randn(2, N, 3).double()}
TOKENS = {"inputs": torch.arange(2 * N).remainder(4).unflatten(0, (2, N)), "coors": torch.randn(2, N, 3)}
HIGHER = {"inputs": {0: torch.randn(2, N, 5), 1: torch.randn(2, N, 2, 3)}, "coors": torch.randn(2, N, 3)}
NAN, INF = float("nan"), float("inf")


def with_bad(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[1, 2, 0] = value
    return tensor


# (options of the model, the call, the error, words that must be in it)
CALLS = [
    ({}, {**FLOATS, "coors": torch.randn(2, N, 2)}, ValueError, ["coors", "(2, 5, 2)", "3"]),
    ({}, {**FLOATS, "coors": torch.randn(N, 3)}, ValueError, ["coors", "(5, 3)"]),
    ({}, {**FLOATS, "coors": torch.randn(2, N + 1, 3)}, ValueError, ["(2, 6, 5)", "(2, 5, 5)"]),
    ({}, {**FLOATS, "coors": torch.zeros(2, N, 3).long()}, TypeError, ["coors", "int64", "floating"]),
    ({}, {**FLOATS, "coors": torch.zeros(2, N, 3, dtype=torch.complex64)}, TypeError, ["coors", "complex64"]),
    ({}, {**FLOATS, "coors": [[0, 0, 0]]}, TypeError, ["coors", "list", "Tensor"]),
    ({}, {**FLOATS, "coors": None}, TypeError, ["coors", "NoneType"]),
    ({}, {**FLOATS, "coors": with_bad(FLOATS["coors"], NAN)}, ValueError, ["coors", "finite", "nan"]),
    ({}, {**FLOATS, "coors": with_bad(FLOATS["coors"], INF)}, ValueError, ["coors", "finite", "inf"]),
    ({}, {**FLOATS, "inputs": torch.randn(2, N, 4)}, ValueError, ["inputs", "(2, 5, 4)", "(2, 5, 5)"]),
    ({}, {**FLOATS, "inputs": torch.randn(2, N)}, ValueError, ["inputs", "(2, 5)"]),
    ({}, {**FLOATS, "inputs": torch.randint(0, 4, (2, N))}, TypeError, ["inputs", "int64", "floating"]),
    ({}, {**FLOATS, "inputs": "CCO"}, TypeError, ["inputs", "str"]),
    ({}, {**FLOATS, "inputs": {0: torch.randn(2, N, 5), 1: torch.randn(2, N, 2, 3)}}, ValueError, ["inputs", "[0, 1]"]),
    ({}, {**FLOATS, "inputs": {"0": torch.randn(2, N, 5)}}, ValueError, ["inputs", "'0'"]),
    ({}, {**FLOATS, "mask": torch.ones(2, N + 1).bool()}, ValueError, ["mask", "(2, 6)", "(2, 5)"]),
    ({}, {**FLOATS, "mask": torch.ones(N).bool()}, ValueError, ["mask", "(5,)"]),
    ({}, {**FLOATS, "mask": torch.full((2, N), 0.5)}, ValueError, ["mask", "0/1", "float32"]),
    ({}, {**FLOATS, "mask": torch.full((2, N), NAN)}, ValueError, ["mask"]),
    ({}, {**FLOATS, "mask": [[True] * N] * 2}, TypeError, ["mask", "list"]),
    ({}, {**FLOATS, "edges": torch.randn(2, N, N, 3)}, ValueError, ["edges", "ignored", "edge_dim"]),
    ({}, {**FLOATS, "adj_mat": torch.ones(N, N).bool()}, ValueError, ["adj_mat", "ignored", "attend_sparse_neighbors"]),
    ({"num_tokens": 4}, {**TOKENS, "inputs": TOKENS["inputs"] + 4}, ValueError, ["inputs", "0 … 3", "to 7"]),
    ({"num_tokens": 4}, {**TOKENS, "inputs": TOKENS["inputs"] - 4}, ValueError, ["inputs", "0 … 3", "from -4"]),
    ({"num_tokens": 4}, {**TOKENS, "inputs": torch.randn(2, N)}, TypeError, ["inputs", "integer", "float32"]),
    ({"num_tokens": 4}, {**TOKENS, "inputs": torch.ones(2, N).bool()}, TypeError, ["inputs", "integer", "bool"]),
    ({"num_tokens": 4}, {**TOKENS, "inputs": torch.zeros(2, N, 1).long()}, ValueError, ["inputs", "(2, 5, 1)"]),
    ({"num_positions": 3}, FLOATS, ValueError, ["inputs", "num_positions = 3", "5"]),
    ({"edge_dim": 3}, FLOATS, ValueError, ["edges", "missing", "edge_dim = 3"]),
    ({"edge_dim": 3}, {**FLOATS, "edges": torch.randn(2, N, N, 4)}, ValueError, ["edges", "(2, 5, 5, 4)", "3"]),
    ({"edge_dim": 3}, {**FLOATS, "edges": torch.randn(N, N, 3)}, ValueError, ["edges", "(5, 5, 3)"]),
    ({"edge_dim": 3}, {**FLOATS, "edges": torch.zeros(2, N, N).long()}, TypeError, ["edges", "int64", "floating"]),
    ({"edge_dim": 3}, {**FLOATS, "edges": 1.0}, TypeError, ["edges", "float"]),
    ({"edge_dim": 3, "num_edge_tokens": 4}, FLOATS, ValueError, ["edges", "missing"]),
    (
        {"edge_dim": 3, "num_edge_tokens": 4},
        {**FLOATS, "edges": torch.full((2, N, N), 4)},
        ValueError,
        ["edges", "0 … 3", "4"],
    ),
    (
        {"edge_dim": 3, "num_edge_tokens": 4},
        {**FLOATS, "edges": torch.randn(2, N, N)},
        TypeError,
        ["edges", "integers", "float32"],
    ),
    (
        {"edge_dim": 3, "num_edge_tokens": 4},
        {**FLOATS, "edges": torch.zeros(N, N).long()},
        ValueError,
        ["edges", "(5, 5)", "(2, 5, 5)"],
    ),
    ({"attend_sparse_neighbors": True}, FLOATS, ValueError, ["adj_mat", "missing"]),
    ({"adj_dim": 2, "num_adj_degrees_embed": 2}, FLOATS, ValueError, ["adj_mat", "missing"]),
    (
        {"attend_sparse_neighbors": True},
        {**FLOATS, "adj_mat": torch.ones(N, N + 1).bool()},
        ValueError,
        ["adj_mat", "(2, 5, 6)", "(2, 5, 5)"],
    ),
    ({"attend_sparse_neighbors": True}, {**FLOATS, "adj_mat": torch.ones(N).bool()}, ValueError, ["adj_mat", "(5,)"]),
    ({"attend_sparse_neighbors": True}, {**FLOATS, "adj_mat": torch.full((N, N), 2)}, ValueError, ["adj_mat", "0/1"]),
    ({"attend_sparse_neighbors": True}, {**FLOATS, "adj_mat": "chain"}, TypeError, ["adj_mat", "str"]),
    (
        {"input_degrees": 2, "dim_in": (5, 2)},
        {**HIGHER, "inputs": HIGHER["inputs"][0]},
        ValueError,
        ["inputs", "input_degrees = 2", "[0]"],
    ),
    (
        {"input_degrees": 2, "dim_in": (5, 3)},
        HIGHER,
        ValueError,
        ["inputs[1]", "(2, 5, 2, 3)", "(2, 5, 3, 3)"],
    ),
    (
        {"input_degrees": 2, "dim_in": (5, 2)},
        {**HIGHER, "inputs": {**HIGHER["inputs"], 1: torch.zeros(2, N, 2, 3).long()}},
        TypeError,
        ["inputs[1]", "int64"],
    ),
]


@pytest.mark.parametrize("index", range(len(CALLS)))
def test_calls(index):
    options, call, error, words = CALLS[index]
    model = build(torch.float32, **options)
    with pytest.raises(error) as caught:
        model(**call)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value!s}"


BASE = {"dim": (4, 4), "num_degrees": 2}
CONSTRUCTORS = [
    ({"num_degress": 3}, TypeError, ["num_degress"]),
    ({"l2_dist_attention": False, "num_degress": 3}, TypeError, ["num_degress"]),
    ({"l2_dist_attention": True, "attn_slope": 3}, TypeError, ["attn_slope"]),
    ({"dim": (4, 4, 4)}, ValueError, ["dim", "2 degrees", "(4, 4, 4)"]),
    ({"dim": 0}, ValueError, ["dim", "at least 1", "0"]),
    ({"dim": (4, -1)}, ValueError, ["dim", "-1"]),
    ({"dim": "four"}, TypeError, ["dim", "four"]),
    ({"dim": None}, TypeError, ["dim", "None"]),
    ({"dim": 4.0}, TypeError, ["dim", "4.0"]),
    ({"dim": (4, "x")}, TypeError, ["dim", "x"]),
    ({"dim_in": (4, 4)}, ValueError, ["dim_in", "(4, 4)"]),
    ({"input_degrees": 3}, ValueError, ["dim_in", "input_degrees = 3"]),
    ({"heads": (2, 2, 2)}, ValueError, ["heads", "(2, 2, 2)"]),
    ({"heads": 0}, ValueError, ["heads", "0"]),
    ({"dim_head": (2,)}, ValueError, ["dim_head", "(2,)"]),
    ({"num_degrees": 0}, ValueError, ["num_degrees", "0"]),
    ({"num_degrees": 2.5}, TypeError, ["num_degrees", "2.5"]),
    ({"num_degrees": True}, TypeError, ["num_degrees", "True"]),
    ({"depth": -1}, ValueError, ["depth", "-1"]),
    ({"depth": 2.0}, TypeError, ["depth", "2.0"]),
    ({"depth": math.inf}, TypeError, ["depth", "inf"]),
    ({"valid_radius": 0}, ValueError, ["valid_radius", "0"]),
    ({"valid_radius": -1.0}, ValueError, ["valid_radius", "-1.0"]),
    ({"valid_radius": math.nan}, ValueError, ["valid_radius", "nan"]),
    ({"valid_radius": "1"}, TypeError, ["valid_radius", "'1'"]),
    ({"num_neighbors": -1}, ValueError, ["num_neighbors", "-1"]),
    ({"num_neighbors": math.nan}, ValueError, ["num_neighbors", "nan"]),
    ({"num_neighbors": -math.inf}, ValueError, ["num_neighbors", "-inf"]),
    ({"num_neighbors": 1.5}, TypeError, ["num_neighbors", "1.5"]),
    ({"num_neighbors": 0}, ValueError, ["num_neighbors", "attend_sparse_neighbors"]),
    ({"max_sparse_neighbors": -1}, ValueError, ["max_sparse_neighbors", "-1"]),
    ({"num_tokens": 0}, ValueError, ["num_tokens", "0"]),
    ({"num_positions": 0}, ValueError, ["num_positions", "0"]),
    ({"num_edge_tokens": 3}, ValueError, ["num_edge_tokens = 3", "edge_dim"]),
    ({"edge_dim": -1}, ValueError, ["edge_dim", "-1"]),
    ({"adj_dim": 4}, ValueError, ["adj_dim = 4", "num_adj_degrees_embed"]),
    ({"num_adj_degrees_embed": 0}, ValueError, ["num_adj_degrees_embed", "0"]),
    ({"embedding_grad_frac": -0.1}, ValueError, ["embedding_grad_frac", "-0.1"]),
    ({"embedding_grad_frac": 1.1}, ValueError, ["embedding_grad_frac", "1.1"]),
    ({"radial_hidden_dim": 0}, ValueError, ["radial_hidden_dim", "0"]),
    ({"num_linear_attn_heads": -1}, ValueError, ["num_linear_attn_heads", "-1"]),
    ({"linear_attn_dim_head": 0}, ValueError, ["linear_attn_dim_head", "0"]),
    ({"attn_hidden_dim_mult": 0}, ValueError, ["attn_hidden_dim_mult", "0"]),
    ({"output_degrees": 0}, ValueError, ["output_degrees", "0"]),
]


@pytest.mark.parametrize("index", range(len(CONSTRUCTORS)))
def test_constructors(index):
    options, error, words = CONSTRUCTORS[index]
    with pytest.raises(error) as caught:
        Equiformer(**{**BASE, **options})
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value!s}"


def test_dim_is_required_and_arguments_are_keywords():
    model: Any = Equiformer
    with pytest.raises(TypeError, match="dim"):
        model()
    with pytest.raises(TypeError, match="positional"):
        model(32)


def test_an_unknown_call_argument_is_named():
    with pytest.raises(TypeError, match="masks"):
        build()(FLOATS["inputs"], FLOATS["coors"], masks=None)


def test_nan_coordinates_are_told_apart_by_the_mask():
    """Of points that are masked they are no error; of real points they are, and the message shows the point."""
    model = build()
    coors = with_bad(FLOATS["coors"], NAN)
    mask = torch.ones(2, N, dtype=torch.bool)
    with pytest.raises(ValueError, match=re.escape("nan")):
        model(FLOATS["inputs"], coors, mask)
    mask[1, 2] = False
    assert model(FLOATS["inputs"], coors, mask).type0.isfinite().all()
    # Only one coordinate of a point is NaN, or all three: both are said.
    with pytest.raises(ValueError, match="coors"):
        model(FLOATS["inputs"], torch.full_like(coors, NAN))


def test_tokens_of_masked_points_may_be_anything():
    model = build(num_tokens=4)
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[:, -1] = False
    tokens = TOKENS["inputs"].clone()
    tokens[:, -1] = -100
    assert model(tokens, TOKENS["coors"].double(), mask).type0.isfinite().all()


def test_errors_come_without_assertions():
    """Under python -O assertions are gone: none of the errors may come from one."""
    with pytest.raises(ValueError, match="adj_mat") as caught:
        build(attend_sparse_neighbors=True)(FLOATS["inputs"], FLOATS["coors"])
    assert not isinstance(caught.value, AssertionError)
