"""Layers of the published models, written out: one order, one degree, one edge at a time."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.published.activation import Activation
from equiformer_pytorch.published.attention import GraphAttention
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.radial import RadialNetwork
from equiformer_pytorch.published.so2 import SO2Linear
from tests.ops.test_softmax import by_edges
from tests.oracle import order_major, turned, turned_back


def so2(layer: SO2Linear, x: Tensor, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """With complex matrices U + iV, for all degrees; those that are not kept are cut out at the end. `scales` are of
    each row of order 0 or above, (edges, rows, channels), whatever the layer takes."""
    lmax, mmax, invariants = layer.max_degree, layer.max_order, layer.invariants
    rows = order_major(lmax, mmax)
    if scales is not None:
        x = x * torch.stack([scales[:, [r for r in rows if r[1] >= 0].index((d, abs(m)))] for d, m in rows], dim=1)

    def of_order(m: int) -> Tensor:
        return torch.cat([x[:, k] for k, row in enumerate(rows) if row[1] == m], dim=1)

    y = layer.fc_m0(of_order(0))
    parts, besides = [y[:, invariants:]], y[:, :invariants]
    for m in range(1, mmax + 1):
        u, v = cast(nn.Linear, layer.get_submodule(f"{layer.orders_name}.{m - 1}.fc")).weight.chunk(2, dim=0)
        product = torch.complex(of_order(m), of_order(-m)) @ torch.complex(u, v).T
        parts += [product.real, product.imag]
    message = torch.cat(parts, dim=1).unflatten(1, (-1, layer.channels_out))
    low, high = layer.keep
    return message[:, [k for k, (degree, _) in enumerate(rows) if low <= degree < high]], besides


def radial(
    network: RadialNetwork, graph: EdgeGraph, sender: nn.Embedding | None, receiver: nn.Embedding | None
) -> Tensor:
    """The whole network of the basis and of both elements side by side."""
    inputs = [graph.scalars]
    if sender is not None and receiver is not None:
        inputs += [sender(graph.kinds[graph.senders]), receiver(graph.kinds[graph.receivers])]
    return network.net(torch.cat(inputs, dim=1))


def rescale(degree: int, max_order: int) -> float:
    return ((2 * degree + 1) / (2 * max_order + 1)) ** 0.5 if degree > max_order else 1.0


def row_scales(weights: Tensor, max_degree: int, max_order: int, per_degree: bool) -> Tensor:
    """Of the rows of order 0 and above: their own, or those of their degree."""
    if not per_degree:
        return weights.unflatten(1, (sum(max_degree + 1 - m for m in range(max_order + 1)), -1))
    degrees = [degree for degree, order in order_major(max_degree, max_order) if order >= 0]
    return weights.unflatten(1, (max_degree + 1, -1))[:, degrees]


def attention(layer: GraphAttention, x: Tensor, graph: EdgeGraph, matrices: list[Tensor]) -> Tensor:
    """See :class:`GraphAttention`; the activation is taken as it is."""
    o = layer.options
    lmax, mmax = o.max_degree, o.max_order
    w = radial(layer.radial, graph, layer.source_embedding, layer.target_embedding)
    sender, receiver = x[graph.senders], x[graph.receivers]
    if o.add_ends:
        weights = w.unflatten(1, (lmax + 1, 2, -1))[:, [d for d in range(lmax + 1) for _ in range(2 * d + 1)]]
        hidden, besides = so2(
            layer.first, turned(matrices, weights[:, :, 0] * sender + weights[:, :, 1] * receiver, mmax)
        )
    else:
        aligned = turned(matrices, torch.cat((sender, receiver), dim=2), mmax)
        hidden, besides = so2(layer.first, aligned, row_scales(w, lmax, mmax, o.per_degree_radial))
    features, scalars = besides.split(
        [o.heads * o.alpha_channels, besides.shape[1] - o.heads * o.alpha_channels], dim=1
    )
    message, _ = so2(layer.second, layer.act(hidden, scalars))

    features = layer.alpha_norm(features.unflatten(1, (o.heads, -1)))
    smooth = F.silu(features) if o.alpha_silu else 0.2 * features + 0.8 * features * features.sigmoid()
    logits = (smooth * layer.alpha_dot).sum(2)
    if o.softcap is not None:
        logits = o.softcap * (logits / o.softcap).tanh()
    alpha = by_edges(logits, graph, o.eps)

    low, high = (0, lmax + 1) if layer.keep is None else layer.keep
    rows = [row for row in order_major(lmax, mmax) if low <= row[0] < high]
    every = order_major(lmax, mmax)
    whole = torch.stack(
        [
            message[:, rows.index(row)] * rescale(row[0], mmax) if row in rows else torch.zeros_like(message[:, 0])
            for row in every
        ],
        dim=1,
    )
    by_head = whole.unflatten(2, (o.heads, -1)) * alpha[:, None, :, None]
    back = turned_back(matrices, by_head.flatten(2), lmax + 1, mmax)
    y = torch.stack([back[graph.receivers == i].sum(0) for i in range(graph.count)])
    mapped = []
    for degree in range(low, high):
        part = y[:, degree**2 : (degree + 1) ** 2] @ layer.proj.weight[degree].T
        mapped.append(part + layer.proj.bias.flatten() if degree == 0 else part)
    return torch.cat(mapped, dim=1)


def edge_degree(layer: EdgeDegreeEmbedding, graph: EdgeGraph, matrices: list[Tensor], max_order: int) -> Tensor:
    """Σ u Dᵀ s w / N, where only the rows of order 0 have weights."""
    lmax = layer.max_degree
    w = radial(layer.rad_func, graph, layer.source_embedding, layer.target_embedding).unflatten(1, (lmax + 1, -1))
    factors = torch.tensor([rescale(degree, max_order) for degree in range(lmax + 1)], dtype=torch.float64)
    w = w * factors[:, None]
    if graph.envelope is not None:
        w = w * graph.envelope[:, None, None]
    back = turned_back(matrices, w, lmax + 1, 0)
    return torch.stack([back[graph.receivers == i].sum(0) for i in range(graph.count)]) / layer.average


def sampled(
    act: Activation, x: Tensor, points: Tensor, weights: Tensor, harmonics: Tensor, rows: list[tuple[int, int]]
) -> Tensor:
    """F φ(T x) by any quadrature: f(p) = Σ s x Y(p), φ at each point, and its projection on Y / s."""
    lmax = max(degree for degree, _ in rows)
    spread = torch.tensor([((2 * d + 1) * (lmax + 1)) ** -0.5 for d, _ in rows], dtype=torch.float64)
    chosen = harmonics[:, [d * d + d + m for d, m in rows]]
    samples = torch.einsum("pr,r,nrc->npc", chosen, spread, x)
    one, other = samples.chunk(2, dim=2)
    kind = act.kind
    if kind.gated or kind.pointwise.value.__name__ == "square":
        values = one * other
    elif kind.halves:
        values = F.silu(one) * other
    else:
        values = F.silu(samples)
    return torch.einsum("pr,r,p,npc->nrc", chosen, 1 / spread, weights, values)
