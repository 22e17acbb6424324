"""Graph attention and edge-degree embedding: their formulas, symmetry, derivatives, pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.ops import pieces, recompute
from equiformer_pytorch.published.attention import VECTORS, AttentionOptions, GraphAttention
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.radial import GaussianSmearing
from equiformer_pytorch.testing import Role, assert_equivariant, assert_gradients
from tests.models import Model, shake, total
from tests.ops.graphs import SIZES, edge_graph, normal, random_wigner
from tests.published import plain
from tests.published_cases import molecule, relative

OPTIONS = AttentionOptions(
    channels=3,
    hidden_channels=2,
    heads=2,
    alpha_channels=3,
    value_channels=2,
    max_degree=2,
    max_order=2,
    grid=(8, 8),
    activation="gate",
    radial_widths=(3, 4, 4),
    elements=20,
)
# What EquiformerV2 and V3 make of it.
V2: dict[str, Any] = {"convolution": ("so2_conv", "so2_m_conv"), "radial_inside": True, "bias_rank": 1}
V3: dict[str, Any] = {"convolution": ("so2_linear", "so2_m_linear"), "radial_inside": False, "bias_rank": 3}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "v2": ({}, V2),
    "v3": ({"activation": "sep-merge_gates2_swiglu"}, V3),
    "few orders": ({"max_degree": 3, "max_order": 1, "activation": "sep_s2_square"}, V3),
    "invariants alone in frames": ({"max_order": 0}, V2),
    "weights of each order": ({"per_degree_radial": False, "activation": "s2_swiglu"}, V3),
    "added ends": ({"add_ends": True, "activation": "sep_s2_swiglu"}, V3),
    "added ends, few orders": ({"add_ends": True, "max_degree": 3, "max_order": 1}, V3),
    "without elements": ({"element_embedding": False}, V2),
    "raw features": ({"renormalise": False, "activation": "s2"}, V2),
    "silu, softcap": ({"alpha_silu": True, "softcap": 0.7, "eps": 0.2}, V3),
    "vectors": ({"max_degree": 3, "max_order": 2}, {**V2, "keep": VECTORS}),
    "vectors of few orders": ({"max_degree": 3, "max_order": 1, "add_ends": True}, {**V3, "keep": VECTORS}),
}
EXACT = [name for name, (options, _) in FORMS.items() if options.get("activation", "gate") in ("gate", "sep_s2_square")]


def alive(layer: Model) -> Model:
    return shake(layer.double().eval(), 0.4)


def made(name: str, **changes: Any) -> GraphAttention:
    options, form = FORMS[name]
    torch.manual_seed(0)
    return alive(GraphAttention(replace(OPTIONS, **{**options, **changes}), 4, **form))


def graph_for(layer: GraphAttention, sizes: list[int], **options: Any) -> tuple[EdgeGraph, list[Tensor]]:
    o = layer.options
    graph = edge_graph(sizes, o.max_degree, o.max_order, shared=o.max_degree + 1, **options)
    return graph, random_wigner(sum(sizes), o.max_degree)


def features(layer: GraphAttention, points: int) -> Tensor:
    return normal(points, (layer.options.max_degree + 1) ** 2, layer.options.channels)


@pytest.mark.parametrize("envelope", [False, True])
@pytest.mark.parametrize("sizes", ["ragged", "equal"])
@pytest.mark.parametrize("name", FORMS)
def test_attention_is_its_formula(name: str, sizes: str, envelope: bool):
    layer = made(name)
    graph, matrices = graph_for(layer, SIZES[sizes], envelope=envelope)
    x = features(layer, graph.count)
    found, wanted = layer(x, graph), plain.attention(layer, x, graph, matrices)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_rms_norm_of_attention_features():
    """In single precision, as published."""
    layer = made("v3", rms=True)
    graph, matrices = graph_for(layer, SIZES["ragged"])
    x = features(layer, graph.count)
    assert relative(layer(x, graph), plain.attention(layer, x, graph, matrices)) < 1e-6


@pytest.mark.parametrize("name", FORMS)
def test_every_parameter_has_a_gradient(name: str):
    """That of the formula; zero where it does not matter."""
    layer = made(name)
    graph, matrices = graph_for(layer, SIZES["ragged"])
    x = features(layer, graph.count)
    grads = []
    for function in (lambda x: layer(x, graph), lambda x: plain.attention(layer, x, graph, matrices)):
        leaf = x.clone().requires_grad_()
        leaves = {"x": leaf, **dict(layer.named_parameters())}
        found = torch.autograd.grad(
            function(leaf).sin().sum(), list(leaves.values()), materialize_grads=True, allow_unused=True
        )
        grads.append(dict(zip(leaves, found, strict=True)))
    for key, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][key], rtol=1e-9, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", SIZES)
def test_atoms_without_neighbours_take_in_the_bias(name: str):
    layer = made("v2")
    graph, _ = graph_for(layer, SIZES[name])
    x = features(layer, graph.count).requires_grad_()
    y = layer(x, graph)
    assert y.shape == (graph.count, 9, 4)
    alone = torch.tensor([size == 0 for size in SIZES[name]], dtype=torch.bool)
    torch.testing.assert_close(y[alone, 0], layer.proj.bias.expand(int(alone.sum()), 4))
    assert not y[alone, 1:].any()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", ["v2", "v3", "few orders", "added ends", "silu, softcap", "vectors of few orders"])
def test_attention_in_pieces(monkeypatch: pytest.MonkeyPatch, name: str):
    """Of receivers, and of edges; with two derivatives."""
    layer, results = made(name), []
    graph, _ = graph_for(layer, [3, 0, 2, 4, 1, 2])
    x = features(layer, 6)
    for largest, piece in ((2**26, 2**18), (1, 2**18), (400, 2**18), (2**26, 1), (1, 1)):
        monkeypatch.setattr(pieces, "LARGEST", largest)
        monkeypatch.setattr(recompute, "PIECE", piece)
        leaves = [x.clone().requires_grad_(), *(t.clone().requires_grad_() for t in graph.tensors())]
        y = layer(leaves[0], graph.with_tensors(leaves[1:]))
        leaves += layer.parameters()
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True, materialize_grads=True)
        second = torch.autograd.grad(total(g.sin().sum() for g in first), leaves, materialize_grads=True)
        with torch.no_grad():
            torch.testing.assert_close(layer(x, graph), y, rtol=0, atol=1e-12)
        results.append([y, *first, *second])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert relative(two, one) < 1e-10 or (two - one).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["v2", "v3", "added ends"])
def test_attention_has_gradients_of_two_orders(name: str):
    layer = made(name, max_degree=1, max_order=1, grid=(6, 6))
    graph, _ = graph_for(layer, [2, 1])
    # An edge with weight zero is where the envelope ends: a kink for finite differences.
    graph = replace(graph, envelope=graph.envelope + 0.1)

    def function(x: Tensor, scalars: Tensor, rotation: Tensor, envelope: Tensor) -> Tensor:
        return layer(x, graph.with_tensors((scalars, rotation, envelope)))

    given = dict(zip(("scalars", "rotation", "envelope"), graph.tensors(), strict=True))
    assert_gradients(function, {"x": features(layer, 2), **given}, fast=True)


# Of structures


def of_structures(
    call: Callable[[EdgeGraph, Tensor], Tensor], max_degree: int, max_order: int
) -> Callable[..., Tensor]:
    """A layer as a function of positions, elements, edges and features."""
    frames, basis, envelope = (
        EdgeFrames(max_degree, max_order, shared=max_degree + 1),
        GaussianSmearing(4.0, 3),
        Envelope(5),
    )

    def function(x: Tensor, pos: Tensor, atomic_numbers: Tensor, edge_index: Tensor) -> Tensor:
        ends = edge_index[:, edge_index[1].argsort(stable=True)]
        distance, rotation = frames(pos[ends[0]] - pos[ends[1]])
        graph = EdgeGraph(
            senders=ends[0],
            receivers=ends[1],
            receiver_points=ends[1],
            count=len(x),
            rotation=rotation,
            scalars=basis(distance),
            envelope=envelope(distance, 4.0),
            kinds=atomic_numbers,
        )
        return call(graph, x)

    return function


def structure(max_degree: int, channels: int) -> dict[str, Tensor]:
    inputs = {name: value for name, value in molecule().items() if name in ("pos", "atomic_numbers", "edge_index")}
    return {"x": normal(6, (max_degree + 1) ** 2, channels), **inputs}


@pytest.mark.parametrize("name", [*EXACT, "v3"])
def test_attention_is_equivariant(name: str):
    layer = made(name)
    o = layer.options
    function = of_structures(lambda graph, x: layer(x, graph), o.max_degree, o.max_order)
    low, high = (0, o.max_degree + 1) if layer.keep is None else layer.keep
    outputs = Role(tuple((degree, 1) for degree in range(low, high)), axis=-2, points=(0,))
    given = structure(o.max_degree, o.channels)
    assert_equivariant(function, given, roles={"x": Role.up_to_degree(o.max_degree)}, outputs=outputs, tolerance=1e-10)
    if o.eps < 1e-9:  # the largest logit counts as a constant, which it is not beside a large ε
        assert_gradients(function, given, by=["pos"], second=False, fast=True)


EMBEDDINGS = [(2, 2, 20, True), (3, 1, 20, False), (2, 0, 0, True), (0, 0, 20, True), (5, 2, 0, False)]


@pytest.mark.parametrize(("lmax", "mmax", "elements", "envelope"), EMBEDDINGS)
def test_edge_degree_embedding_is_its_formula(lmax: int, mmax: int, elements: int, envelope: bool):
    layer = alive(EdgeDegreeEmbedding(4, lmax, mmax, (3, 4, 4), elements, 7.5))
    graph = edge_graph(SIZES["ragged"], lmax, mmax, shared=lmax + 1, envelope=envelope)
    wanted = plain.edge_degree(layer, graph, random_wigner(6, lmax), mmax)
    found = layer(graph, normal(5, 1))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not found[1].any()
    for name in ("no edges", "no points"):
        empty = edge_graph(SIZES[name], lmax, mmax, shared=lmax + 1, envelope=envelope)
        assert not layer(empty, normal(empty.count, 1)).any()


def test_edge_degree_embedding_in_pieces(monkeypatch: pytest.MonkeyPatch):
    layer, results = alive(EdgeDegreeEmbedding(4, 2, 1, (3, 4, 4), 20, 7.5)), []
    graph = edge_graph([3, 0, 2, 4, 1, 2], 2, 1, shared=3)
    for largest in (2**26, 1, 80):
        monkeypatch.setattr(pieces, "LARGEST", largest)
        leaves = [t.clone().requires_grad_() for t in graph.tensors()]
        y = layer(graph.with_tensors(leaves), normal(6, 1))
        leaves += layer.parameters()
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(total(g.sin().sum() for g in first), leaves, materialize_grads=True)
        results.append([y, *first, *second])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert relative(two, one) < 1e-11


@pytest.mark.parametrize(("lmax", "mmax", "elements", "envelope"), EMBEDDINGS)
def test_edge_degree_embedding_is_equivariant(lmax: int, mmax: int, elements: int, envelope: bool):
    layer = alive(EdgeDegreeEmbedding(4, lmax, mmax, (3, 4, 4), elements, 7.5))

    def call(graph: EdgeGraph, x: Tensor) -> Tensor:
        return layer(graph if envelope else replace(graph, envelope=None), x)

    function, given = of_structures(call, lmax, mmax), structure(0, 1)
    assert_equivariant(
        function, given, roles={"x": Role.up_to_degree(0)}, outputs=Role.up_to_degree(lmax), tolerance=1e-10
    )
    assert_gradients(function, given, by=["pos"], fast=True)


# Drops in the attention


def test_drops_of_attention_only_in_training():
    """Each of the four changes the result; with none of them training is the same as evaluation."""
    rates = ("mask_rate", "weights_drop", "value_drop")
    calm = made("v3")
    graph, _ = graph_for(calm, SIZES["ragged"])
    x = features(calm, graph.count)
    wanted = calm(x, graph)
    assert torch.equal(calm.train()(x, graph), wanted)
    for changes in (*({rate: 0.4} for rate in rates), {"alpha_silu": True, "alpha_drop": 0.4}):
        layer = made("v3", **changes)
        still = layer(x, graph)
        if "alpha_silu" not in changes:
            torch.testing.assert_close(still, wanted, rtol=0, atol=1e-11)
        layer.train()
        assert relative(layer(x, graph), still) > 1e-3
        torch.autograd.grad(layer(x, graph).sum(), list(layer.parameters()), allow_unused=True)


def test_masked_neighbours_take_no_part():
    """What stays shares one among itself: a mean over the neighbours that are left, not a scaled one."""
    layer = made("v2", mask_rate=0.5).train()
    graph, _ = graph_for(layer, [4, 4, 4, 4], envelope=False)
    torch.manual_seed(0)
    weights = layer._weights(normal(16, 6), graph)
    sums = graph.sum_receivers(weights)
    some = sums > 0.5
    torch.testing.assert_close(sums[some], torch.ones_like(sums[some]))
    assert (weights == 0).any()
    assert not sums[~some].any()
