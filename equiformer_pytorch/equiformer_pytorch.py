"""`Equiformer`: an SE(3)- or E(3)-equivariant attention network over points in space."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equiformer_pytorch import checks
from equiformer_pytorch.dense import Batch, EdgeFeatures, PointFeatures, steps_between
from equiformer_pytorch.graph import Graph, Table
from equiformer_pytorch.layers.attention import L2DistAttention, MLPAttention
from equiformer_pytorch.layers.attention.base import AttentionConfig
from equiformer_pytorch.layers.blocks import ReversibleBlocks, SequentialBlocks
from equiformer_pytorch.layers.edge_frame import EdgeFrame
from equiformer_pytorch.layers.embedding import NeighbourEmbedding
from equiformer_pytorch.layers.feedforward import FeedForward
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm
from equiformer_pytorch.layers.radial import RadialNetwork, envelope
from equiformer_pytorch.neighbours import find_neighbours

__all__ = ["AttentionWeights", "Equiformer", "L2DistAttention", "MLPAttention", "Return"]


class Return(NamedTuple):
    """Output of :class:`Equiformer`; unpacks into two."""

    type0: Float[Tensor, ...]
    """Invariants (b, n, c), or (b, n) with `reduce_dim_out`."""
    type1: Float[Tensor, "... 3"] | None
    """Vectors (b, n, c, 3), or (b, n, 3) with `reduce_dim_out`; None where only degree 0 is read out."""


class AttentionWeights(NamedTuple):
    """Attention of one layer and degree."""

    weights: Float[Tensor, "b n heads slots"]
    """Share of each slot; zero for empty slots. With `attend_self` slot 0 is the point itself."""
    indices: Int[Tensor, "b n slots"]
    """The point that each slot refers to, −1 for empty slots."""


class Equiformer(nn.Module):
    """SE(3)-equivariant transformer on points with features of several degrees (Liao & Smidt 2023), with SO(2)
    convolutions (Passaro & Zitnick 2023). ``model(x, coors @ R).type1 == model(x, coors).type1 @ R``.

    Args:
        dim: channels per degree, a number for all or one per degree.
        dim_in: channels of the input features per input degree; default those of `dim`.
        num_degrees: degrees 0 … num_degrees − 1 carried inside.
        input_degrees: degrees present in the input.
        heads, dim_head: attention heads and channels per head, a number or one per degree.
        depth: blocks, each attention and feed-forward.
        valid_radius: points farther than this are not attended to, in any degree; weights fall to zero smoothly.
            In the unit of the coordinates.
        num_neighbors: nearest neighbours per point, clamped to what exists.
        reduce_dim_out: output one channel per degree.
        radial_hidden_dim: width of the radial network.
        num_tokens: embed integer input.
        num_positions: add a learned embedding of the position in the sequence.
        num_edge_tokens: embed integer edges, with `edge_dim` channels.
        edge_dim: width of the edge features; continuous ones without `num_edge_tokens`.
        attend_self: a point also attends to itself.
        linear_out: the output projection (`reduce_dim_out`) is linear, else a feed-forward.
        embedding_grad_frac: fraction of the gradient that reaches the token and position embeddings (CogView, Ding
            et al. 2021); 1 turns it off. Gradients of float inputs are never scaled.
        single_headed_kv: one key/value head for all query heads (Shazeer 2019).
        ff_include_htype_norms: the feed-forward sees the norms of the higher degrees.
        l2_dist_attention: attention by distance of query and key (Kim et al. 2020); False: MLP attention (GATv2).
        reversible: reversible residual blocks (Gomez et al. 2017): activation memory does not grow with depth.
        attend_sparse_neighbors: attend to the points that `adj_mat` connects, beside `num_neighbors` others.
        gate_attn_head_outputs: a sigmoid gate per head, so that it can attend to nothing.
        num_adj_degrees_embed: derive connections up to this many steps from `adj_mat`.
        adj_dim: width of their embedding as edge features.
        max_sparse_neighbors: cap on the neighbours by adjacency: fewest steps first, then nearest.
        num_linear_attn_heads, linear_attn_dim_head: global attention on the invariants over the whole structure.
        init_out_zero: branches start at zero.
        attn_leakyrelu_slope, attn_hidden_dim_mult: of MLP attention.
        reflection_equivariant: E(3)- instead of SE(3)-equivariant; all features then have the parity (−1)^degree.
        output_degrees: how many degrees are read out; no layer computes what is not.
        dot_product_attention: old name of `l2_dist_attention`, deprecated.
        splits: of the published package, without effect, deprecated.

    Raises:
        ValueError, TypeError: for arguments that make no sense, by name.

    Parameters and features may be in any floating dtype; distances and rotations are computed in that of `coors`,
    at least float32. float inputs are cast to the dtype of the parameters.
    """

    def __init__(
        self,
        *,
        dim: int | Sequence[int],
        dim_in: int | Sequence[int] | None = None,
        num_degrees: int = 2,
        input_degrees: int = 1,
        heads: int | Sequence[int] = 8,
        dim_head: int | Sequence[int] = 24,
        depth: int = 2,
        valid_radius: float = 1e5,
        num_neighbors: float = math.inf,
        reduce_dim_out: bool = False,
        radial_hidden_dim: int = 64,
        num_tokens: int | None = None,
        num_positions: int | None = None,
        num_edge_tokens: int | None = None,
        edge_dim: int | None = None,
        attend_self: bool = True,
        linear_out: bool = True,
        embedding_grad_frac: float = 0.5,
        single_headed_kv: bool = False,
        ff_include_htype_norms: bool = False,
        l2_dist_attention: bool = True,
        reversible: bool = False,
        attend_sparse_neighbors: bool = False,
        gate_attn_head_outputs: bool = True,
        num_adj_degrees_embed: int | None = None,
        adj_dim: int = 0,
        max_sparse_neighbors: float = math.inf,
        num_linear_attn_heads: int = 0,
        linear_attn_dim_head: int = 8,
        init_out_zero: bool = True,
        attn_leakyrelu_slope: float = 0.1,
        attn_hidden_dim_mult: int = 4,
        reflection_equivariant: bool = False,
        output_degrees: int = 2,
        dot_product_attention: bool | None = None,
        splits: int | None = None,
    ) -> None:
        super().__init__()
        if dot_product_attention is not None:
            warnings.warn("dot_product_attention is now called l2_dist_attention", DeprecationWarning, stacklevel=2)
            l2_dist_attention = dot_product_attention
        if splits is not None:
            warnings.warn("splits has no effect any more", DeprecationWarning, stacklevel=2)
        for name, least in (
            ("num_degrees", 1),
            ("input_degrees", 1),
            ("depth", 0),
            ("radial_hidden_dim", 1),
            ("num_tokens", 1),
            ("num_positions", 1),
            ("num_edge_tokens", 1),
            ("edge_dim", 0),
            ("adj_dim", 0),
            ("num_adj_degrees_embed", 1),
            ("num_linear_attn_heads", 0),
            ("linear_attn_dim_head", 1),
            ("attn_hidden_dim_mult", 1),
            ("output_degrees", 1),
        ):
            checks.check_number(name, locals()[name], least)
        checks.check_number("num_neighbors", num_neighbors, 0, unbounded=True)
        checks.check_number("max_sparse_neighbors", max_sparse_neighbors, 0, unbounded=True)
        checks.check_number("valid_radius", valid_radius, 0, whole=False, exclusive=True)
        checks.check_number("embedding_grad_frac", embedding_grad_frac, 0, whole=False)
        if embedding_grad_frac > 1:
            raise ValueError(f"embedding_grad_frac must be at most 1, got {embedding_grad_frac}")
        if num_edge_tokens is not None and not edge_dim:
            raise ValueError(f"num_edge_tokens = {num_edge_tokens} needs edge_dim, the width of the edge embedding")
        if adj_dim > 0 and num_adj_degrees_embed is None:
            raise ValueError(f"adj_dim = {adj_dim} needs num_adj_degrees_embed, how many steps to embed")
        if not attend_sparse_neighbors and num_neighbors < 1:
            raise ValueError("num_neighbors must be at least 1 without attend_sparse_neighbors, got 0")

        dim = Fiber(checks.per_degree("dim", dim, num_degrees))
        if dim_in is None:
            if input_degrees > num_degrees:
                raise ValueError(f"dim_in must be given for input_degrees = {input_degrees} > num_degrees")
            dim_in = dim[:input_degrees]
        dim_in = Fiber(checks.per_degree("dim_in", dim_in, input_degrees))
        heads = checks.per_degree("heads", heads, num_degrees)
        dim_head = checks.per_degree("dim_head", dim_head, num_degrees)
        dim_out = dim.keep(output_degrees)

        self.dim, self.dim_in, self.num_degrees, self.input_degrees = dim, dim_in, num_degrees, input_degrees
        self.output_degrees = len(dim_out)
        self.valid_radius, self.num_neighbors = valid_radius, num_neighbors
        self.attend_self, self.attend_sparse_neighbors = attend_self, attend_sparse_neighbors
        self.num_adj_degrees_embed, self.max_sparse_neighbors = num_adj_degrees_embed, max_sparse_neighbors

        self.point_features = PointFeatures(dim_in, num_tokens, num_positions, embedding_grad_frac)
        self.edge_features = EdgeFeatures(num_edge_tokens, edge_dim or 0, num_adj_degrees_embed, adj_dim)
        self.edge_frame = EdgeFrame(max(num_degrees, input_degrees))
        self.radial = RadialNetwork(self.edge_features.width, radial_hidden_dim)
        edge_map = {
            "radial_dim": radial_hidden_dim,
            "reflection_equivariant": reflection_equivariant,
        }
        self.embed = NeighbourEmbedding(dim_in, dim if depth else dim_out, **edge_map)

        config = AttentionConfig(
            heads=heads,
            dim_head=dim_head,
            attend_self=attend_self,
            single_headed_kv=single_headed_kv,
            gate_attn_head_outputs=gate_attn_head_outputs,
            num_linear_attn_heads=num_linear_attn_heads,
            linear_attn_dim_head=linear_attn_dim_head,
            init_out_zero=init_out_zero,
            **edge_map,
        )
        blocks = []
        for layer in range(depth):
            fiber_out = dim if layer < depth - 1 else dim_out
            if l2_dist_attention:
                attention = L2DistAttention(dim, fiber_out, config)
            else:
                attention = MLPAttention(
                    dim,
                    fiber_out,
                    config,
                    attn_leakyrelu_slope=attn_leakyrelu_slope,
                    attn_hidden_dim_mult=attn_hidden_dim_mult,
                )
            feed_forward = FeedForward(
                fiber_out, include_htype_norms=ff_include_htype_norms, init_out_zero=init_out_zero
            )
            blocks.append((attention, feed_forward))
        self.layers = ReversibleBlocks(blocks) if reversible else SequentialBlocks(blocks)

        self.norm = Norm(dim_out)
        self.fiber_out = Fiber((1,) * len(dim_out)) if reduce_dim_out else dim_out
        self.reduce_dim_out = reduce_dim_out
        self.to_out = None
        if reduce_dim_out:
            self.to_out = (
                Linear(dim_out, self.fiber_out, bias=True)
                if linear_out
                else FeedForward(dim_out, self.fiber_out, init_out_zero=False)
            )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.norm.gain.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.norm.gain.dtype

    def forward(
        self,
        inputs: Tensor | Mapping[int, Tensor],
        coors: Float[Tensor, "b n 3"],
        mask: Bool[Tensor, "b n"] | None = None,
        adj_mat: Tensor | None = None,
        edges: Tensor | None = None,
        return_pooled: bool = False,
        *,
        return_all_degrees: bool = False,
        return_attn: bool = False,
    ) -> Return | dict[int, Tensor] | tuple[Return | dict[int, Tensor], list[list[AttentionWeights]]]:
        """Features of every point, from features and coordinates.

        Args:
            inputs: integer tokens (b, n), floats (b, n, c), or {degree: (b, n, c, 2·degree + 1)}.
            coors: coordinates.
            mask: which points are real, bool or 0/1 numbers; nothing of the others has any effect, and their
                outputs are zero.
            adj_mat: (n, n) or (b, n, n), which points are connected.
            edges: (b, n, n) integers or (b, n, n, edge_dim); entry [i, j] is what i sees of j.
            return_pooled: the mean over the real points of each structure.
            return_all_degrees: {degree: (b, n, c, 2·degree + 1)} for the `output_degrees` instead of `Return`.
            return_attn: also the attention weights, ``attn[layer][degree]``.

        Raises:
            ValueError, TypeError: for wrong shapes, dtypes or values, by name.
        """
        features = checks.check_degrees(inputs, self.input_degrees)
        coors = checks.check_coordinates(coors)
        structures, columns, _ = coors.shape
        batch = Batch.from_mask(mask, structures, columns, coors.device)
        coordinates = batch.compact(coors)
        checks.check_finite("coors", coordinates)
        x = self.point_features(features, batch, self.dtype)
        graph = self._build_graph(coordinates, batch, adj_mat, edges)

        x = self.embed(x, graph)
        weights: list[list[Tensor]] | None = [] if return_attn else None
        x = self.norm(self.layers(x, graph, weights))
        if self.to_out is not None:
            x = self.to_out(x)

        out = self._read_out(x, graph, batch, return_pooled, return_all_degrees)
        if weights is None:
            return out
        slots = self._slots(graph, batch)
        return out, [[AttentionWeights(batch.expand(w), slots) for w in layer] for layer in weights]

    def _build_graph(self, coordinates: Tensor, batch: Batch, adj_mat: Tensor | None, edges: Tensor | None) -> Graph:
        """Neighbours, and what the layers need to know of each edge."""
        steps = self._steps(adj_mat, batch)
        senders, receivers = find_neighbours(
            coordinates.detach(),
            batch.table,
            num_neighbors=self.num_neighbors,
            valid_radius=self.valid_radius,
            graph_distance=steps if self.attend_sparse_neighbors else None,
            max_sparse_neighbors=self.max_sparse_neighbors,
        )
        vectors = coordinates.index_select(0, senders) - coordinates.index_select(0, receivers)
        with torch.autocast(coordinates.device.type, enabled=False):
            distance, rotation = self.edge_frame(vectors)
            within = envelope(distance, self.valid_radius)
        features = self.edge_features(edges, steps, batch, senders, receivers, self.dtype)
        return Graph(
            senders=senders,
            receivers=receivers,
            neighbours=Table.from_groups(receivers, coordinates.shape[0]),
            structures=batch.table,
            envelope=within.to(self.dtype),
            edge_embedding=self.radial(distance, features),
            rotation=rotation.with_blocks(block.to(self.dtype) for block in rotation.blocks),
        )

    def _steps(self, adj_mat: Tensor | None, batch: Batch) -> Int[Tensor, "structures columns columns"] | None:
        """Steps between points along the adjacency, where the model looks at it."""
        if self.attend_sparse_neighbors or self.edge_features.adjacency is not None:
            if adj_mat is None:
                raise ValueError("adj_mat is missing: attend_sparse_neighbors or adj_dim needs the adjacency matrix")
            return steps_between(adj_mat, batch, self.num_adj_degrees_embed or 1)
        if adj_mat is not None:
            raise ValueError(
                "adj_mat would be ignored: set attend_sparse_neighbors, or num_adj_degrees_embed and adj_dim"
            )
        return None

    def _read_out(
        self, x: Tensor, graph: Graph, batch: Batch, pooled: bool, all_degrees: bool
    ) -> Return | dict[int, Tensor]:
        """Dense outputs per degree, orders last."""
        if pooled:
            x = graph.sum_structures(x) / batch.counts.clamp(min=1)[:, None]
        parts = [part.mT if pooled else batch.expand(part.mT) for part in self.fiber_out.split(x)]
        if all_degrees:
            return dict(enumerate(parts))
        if self.reduce_dim_out:
            parts = [part.squeeze(-2) for part in parts]
        return Return(parts[0].squeeze(-1), parts[1] if len(parts) > 1 else None)

    def _slots(self, graph: Graph, batch: Batch) -> Int[Tensor, "b n slots"]:
        """Which point each attention slot refers to."""
        slots = graph.neighbours.spread(batch.column[graph.senders])
        if graph.neighbours.mask is not None:
            slots = slots.masked_fill(~graph.neighbours.mask, -1)
        if self.attend_self:
            slots = torch.cat((batch.column[:, None], slots), dim=1)
        return batch.expand(slots, fill=-1)
