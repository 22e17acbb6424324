"""`Equiformer`: an SE(3)- or E(3)-equivariant attention network over points in space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Integer, Real, Shaped
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.arguments import takes
from equiformer_pytorch.graph.edges import Condition, EdgeGraph, Edges, Slots
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.graph.nearest import NeighbourRules
from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.inputs.dense import dense_edges
from equiformer_pytorch.inputs.features import EdgeFeatures, PointFeatures, StructureFeatures
from equiformer_pytorch.inputs.flat import FlatArguments, is_data, open_data
from equiformer_pytorch.inputs.layout import Layout
from equiformer_pytorch.inputs.readout import AttentionWeights, Return, attention_weights, read_out
from equiformer_pytorch.layers.attention import L2DistAttention, MLPAttention
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.blocks import ReversibleBlocks, SequentialBlocks
from equiformer_pytorch.layers.embedding import NeighbourEmbedding
from equiformer_pytorch.layers.feedforward import FeedForward
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import JointProduct
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm
from equiformer_pytorch.layers.radial import Envelope, EvenBasis, LogBasis, RadialNetwork
from equiformer_pytorch.layers.rearranged import Part, Rearranged
from equiformer_pytorch.legacy.modules import adopt, arguments_of_equiformer, is_old
from equiformer_pytorch.models.arguments import EquiformerArguments

__all__ = ["AttentionWeights", "Equiformer", "L2DistAttention", "MLPAttention", "Return"]


class Equiformer(nn.Module):
    r"""SE(3)-equivariant transformer on points with features of several degrees (Liao & Smidt 2023), with SO(2)
    convolutions (Passaro & Zitnick 2023). ``model(x, coors @ R).type1 == model(x, coors).type1 @ R``.

    Inputs are raised to all degrees (:class:`NeighbourEmbedding`); `depth` blocks follow, then a norm and the read-out:

    .. math:: x ← x + \mathrm{Attention}(\mathrm{norm}\,x), \qquad x ← x + \mathrm{FeedForward}(\mathrm{norm}\,x)

    (:class:`L2DistAttention` or :class:`MLPAttention`, :class:`FeedForward`, :class:`Norm`).

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
        radial_basis: how it sees distances: "log", finer near than far, whatever the unit; "even", evenly spaced up to
            `valid_radius`, which learns atoms and bonds better (docs/accuracy.md).
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
        attn_query: MLP attention makes logits from normalised invariants of the message times a query of the receiver:
            it learns sooner where whom to attend to must be found out from distances. Not with `l2_dist_attention`.
        reflection_equivariant: E(3)- instead of SE(3)-equivariant; all features then have the parity (−1)^degree.
        output_degrees: how many degrees are read out; no layer computes what is not.
        condition_dim: numbers that a call is given of each structure as a whole, as `condition`: a time, a noise
            level, a temperature. They scale and shift the features in every block.
        dim_out: channels per degree that an output projection reads out, a number or one per output degree; several
            vectors of each point, say. `reduce_dim_out` is one of each.
        norm_out: a norm before the read-out, which keeps directions and ratios alone. Without it magnitudes of
            features reach the output: for displacements that may be large or small.
        dot_product_attention: old name of `l2_dist_attention`, deprecated.
        splits: of the published package, without effect, deprecated.

    Raises:
        ValueError, TypeError: for arguments that make no sense, by name.

    Parameters and features may be in any floating dtype; distances and rotations are computed in that of `coors`,
    at least float32. float inputs are cast to the dtype of the parameters.
    """

    @takes(EquiformerArguments)
    def __init__(self, given: EquiformerArguments) -> None:
        super().__init__()
        given.warn_deprecated()
        dim, dim_in = given.fiber, given.fiber_in
        dim_out = dim.keep(given.output_degrees)
        self.dim, self.dim_in, self.num_degrees, self.input_degrees = dim, dim_in, len(dim), len(dim_in)
        self.output_degrees = len(dim_out)
        self.valid_radius, self.num_neighbors = given.valid_radius, given.num_neighbors
        self.attend_self, self.attend_sparse_neighbors = given.attend_self, given.attend_sparse_neighbors
        self.num_adj_degrees_embed = given.num_adj_degrees_embed
        self.max_sparse_neighbors = given.max_sparse_neighbors

        self.point_features = PointFeatures(dim_in, given.num_tokens, given.num_positions, given.embedding_grad_frac)
        self.edge_features = EdgeFeatures(
            given.num_edge_tokens, given.edge_dim or 0, given.num_adj_degrees_embed, given.adj_dim
        )
        self.edge_frame = EdgeFrames(max(len(dim), len(dim_in)) - 1)
        self.envelope = Envelope(6)
        basis = EvenBasis(given.valid_radius) if given.radial_basis == "even" else LogBasis()
        self.radial = RadialNetwork(self.edge_features.width, given.radial_hidden_dim, basis)
        self.structure_features, hidden = None, None
        if given.condition_dim is not None:
            hidden = given.radial_hidden_dim
            self.structure_features = StructureFeatures(given.condition_dim, hidden)
        self.embed = NeighbourEmbedding(
            dim_in,
            dim if given.depth else dim_out,
            radial_dim=given.radial_hidden_dim,
            reflection_equivariant=given.reflection_equivariant,
        )
        blocks = []
        for layer in range(given.depth):
            fiber_out = dim if layer < given.depth - 1 else dim_out
            attention = self._attention(given, fiber_out, hidden)
            feed_forward = FeedForward(
                fiber_out,
                include_htype_norms=given.ff_include_htype_norms,
                init_out_zero=given.init_out_zero,
                condition_dim=hidden,
            )
            blocks.append((attention, feed_forward))
        self.sees_structures = given.num_linear_attn_heads > 0 and given.depth > 0
        self.layers = ReversibleBlocks(blocks) if given.reversible else SequentialBlocks(blocks)

        self.norm = Norm(dim_out) if given.norm_out else None
        self.fiber_out = given.fiber_out or dim_out
        self.reduce_dim_out = given.reduce_dim_out
        self.to_out = None
        if given.fiber_out is not None:
            self.to_out = (
                Linear(dim_out, self.fiber_out, bias=True)
                if given.linear_out
                else FeedForward(dim_out, self.fiber_out, init_out_zero=False)
            )
        self.last = JointProduct([self.to_out]) if isinstance(self.to_out, Linear) else None
        self.rearranged = Rearranged(self._parts())

    @staticmethod
    def _attention(given: EquiformerArguments, fiber_out: Fiber, condition_dim: int | None) -> Attention:
        """The attention of one block."""
        degrees = given.num_degrees
        config = AttentionConfig(
            heads=checks.per_degree("heads", given.heads, degrees),
            dim_head=checks.per_degree("dim_head", given.dim_head, degrees),
            radial_dim=given.radial_hidden_dim,
            attend_self=given.attend_self,
            single_headed_kv=given.single_headed_kv,
            gate_attn_head_outputs=given.gate_attn_head_outputs,
            num_linear_attn_heads=given.num_linear_attn_heads,
            linear_attn_dim_head=given.linear_attn_dim_head,
            init_out_zero=given.init_out_zero,
            reflection_equivariant=given.reflection_equivariant,
            condition_dim=condition_dim,
        )
        if given.l2_distance:
            return L2DistAttention(given.fiber, fiber_out, config)
        return MLPAttention(
            given.fiber,
            fiber_out,
            config,
            attn_leakyrelu_slope=given.attn_leakyrelu_slope,
            attn_hidden_dim_mult=given.attn_hidden_dim_mult,
            attn_query=given.attn_query,
        )

    def _parts(self) -> list[Part]:
        """Of the embedding, the last norm, a linear map that follows it, and the blocks."""
        last = [] if self.last is None else [(self.last.build, self.last.parameters_in_order())]
        of_norm = [] if self.norm is None else [(self.norm.spread_gain, [self.norm.gain])]
        return [*self.embed.parts(), *of_norm, *last, *self.layers.parts()]

    def __setstate__(self, state: dict[str, Any]) -> None:
        if is_old(state, "rearranged"):
            adopt(self, state, arguments_of_equiformer(state))
        else:
            super().__setstate__(state)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    def forward(
        self,
        inputs: Tensor | Mapping[int, Tensor] | object,
        coors: Float[Tensor, "*size 3"] | None = None,
        mask: Shaped[Tensor, "b n"] | None = None,
        adj_mat: Tensor | None = None,
        edges: Tensor | None = None,
        return_pooled: bool = False,
        *,
        batch: Integer[Tensor, " n"] | None = None,
        edge_index: Integer[Tensor, "2 edges"] | None = None,
        edge_attr: Tensor | None = None,
        cell: Float[Tensor, "*structures 3 3"] | Float[Tensor, "rows 3"] | None = None,
        cell_offsets: Real[Tensor, "edges 3"] | None = None,
        condition: Float[Tensor, "structures condition_dim"] | None = None,
        return_all_degrees: bool = False,
        return_attn: bool = False,
    ) -> Return | dict[int, Tensor] | tuple[Return | dict[int, Tensor], list[list[AttentionWeights]]]:
        """Features of every point, from features and coordinates: dense (b, n, …), or flat (n, …).

        Args:
            inputs: integer tokens (b, n), floats (b, n, c), or {degree: (b, n, c, 2·degree + 1)}; flat without b. Or,
                alone, an object like PyG's `Data` with `x` or `z`, `pos`, and `batch`, `edge_index`, `edge_attr`,
                `cell`, `cell_offsets`, `condition` where there are such.
            coors: coordinates (b, n, 3), or flat (n, 3).
            mask: dense: which points are real, bool or 0/1 numbers; nothing of the others has any effect, and their
                outputs are zero.
            adj_mat: dense: (n, n) or (b, n, n), which points are connected.
            edges: dense: (b, n, n) integers or (b, n, n, edge_dim); entry [i, j] is what i sees of j.
            return_pooled: the mean over the real points of each structure.
            batch: flat: the structure of each point, in any order. With `edge_index` it may be left out: one structure.
            edge_index: flat: (sender, receiver) of each edge, in any order, instead of looking for neighbours:
                `num_neighbors` does not apply, edges beyond `valid_radius` weigh nothing. An edge that is listed
                twice counts twice.
            edge_attr: flat: (edges,) integers or (edges, edge_dim), in the order of `edge_index`.
            cell: flat: cell vectors as rows, (structures, 3, 3); of one structure (3, 3); (3·structures, 3) will do.
            cell_offsets: flat: whole numbers o of each edge: its vector is coors[sender] + o @ cell − coors[receiver].
            condition: for a model with `condition_dim`, of each structure; numbers of order one.
            return_all_degrees: {degree: (b, n, c, 2·degree + 1)} for the `output_degrees` instead of `Return`.
            return_attn: also the attention weights, ``attn[layer][degree]``.

        Raises:
            ValueError, TypeError: for wrong shapes, dtypes or values, by name.
        """
        flat = FlatArguments(batch, edge_index, edge_attr, cell, cell_offsets)
        if is_data(inputs):
            given = {"coors": coors, "condition": condition, **flat._asdict()}
            checks.check_absent(given, "is given twice: inputs is an object that has pos")
            condition = None if self.structure_features is None else getattr(inputs, "condition", None)
            tokens, with_edges = self.point_features.tokens is not None, self.edge_features.edge_dim > 0
            inputs, coors, flat = open_data(inputs, tokens, with_edges)
        features = checks.check_degrees(inputs, self.input_degrees)
        coors = checks.check_coordinates(coors)
        rules, embed = self._rules(), self.edge_features
        if coors.ndim == 3:
            checks.check_absent(flat._asdict(), f"goes with flat coors (points, 3), got coors {tuple(coors.shape)}")
            layout = Layout.of_mask(mask, coors.shape[0], coors.shape[1], coors.device)
            coordinates = layout.compact(coors)
            with checks.together():
                checks.check_finite("coors", coordinates, "point that mask keeps")
                condition = self._checked_condition(condition, coors.shape[0])
                x = self.point_features(features, layout, self.dtype)
            found = dense_edges(coordinates, layout, adj_mat, edges, rules, embed, self.dtype)
        else:
            dense = {"mask": mask, "adj_mat": adj_mat, "edges": edges}
            checks.check_absent(dense, f"goes with dense coors (batch, points, 3), got coors {tuple(coors.shape)}")
            with checks.together() as gathered:
                condition = self._checked_condition(condition, flat.structures)
                if condition is not None:
                    flat = flat._replace(structures=condition.shape[0])
                known = flat.check(coors, rules, embed, gathered)
                self.point_features.check_flat(features)
            layout = flat.layout(coors, known)
            coordinates = layout.compact(coors)
            x = self.point_features(features, layout, self.dtype)
            found = flat.edges(coordinates, layout, known, rules, embed, self.dtype)
        graph = self.edge_graph(found, layout)
        if condition is not None and self.structure_features is not None:
            values = self.structure_features(condition.to(self.dtype))
            graph = replace(graph, condition=Condition(values, layout.structure))

        weights: list[list[Tensor]] | None = [] if return_attn else None
        x = self.through_layers(x, graph, weights)
        out = read_out(
            x,
            self.fiber_out,
            graph,
            layout,
            pooled=return_pooled,
            reduced=self.reduce_dim_out,
            all_degrees=return_all_degrees,
        )
        return out if weights is None else (out, attention_weights(weights, graph, layout, self.attend_self))

    def through_layers(
        self, x: Float[Tensor, "points width_in"], graph: EdgeGraph, weights: list[list[Tensor]] | None = None
    ) -> Float[Tensor, "points width_out"]:
        """Features of the points, of `fiber_out`, from embedded inputs `x` and the `graph` of :meth:`edge_graph`;
        `weights`, where given, is filled with the attention weights of each layer and degree."""
        made = self.rearranged(self._parts())
        matrices = iter(made)
        x = self.embed(x, graph, [next(matrices) for _ in self.embed.parts()])
        x = self.layers(x, graph, weights, made[len(made) - len(self.layers.parts()) :])
        if self.norm is not None:
            x = self.norm(x, next(matrices)[0])
        if self.last is not None:
            return self.last(x, next(matrices))[0]
        return x if self.to_out is None else self.to_out(x)

    def _checked_condition(self, condition: object, structures: int | None) -> Tensor | None:
        """As the caller gave it; errors for what does not fit."""
        if self.structure_features is not None:
            return self.structure_features.check(condition, structures)
        checks.check_absent({"condition": condition}, "would be ignored: set condition_dim")
        return None

    def _rules(self) -> NeighbourRules:
        """Which neighbours to attend to."""
        return NeighbourRules(
            self.num_neighbors,
            self.valid_radius,
            self.attend_sparse_neighbors,
            self.max_sparse_neighbors,
            self.num_adj_degrees_embed or 1,
        )

    def edge_graph(self, edges: Edges, layout: Layout) -> EdgeGraph:
        """What the layers need to know of each of the `edges`, between the points of a `layout`."""
        with torch.autocast(edges.vectors.device.type, enabled=False):
            distance, rotation = self.edge_frame(edges.vectors)
            within = self.envelope(distance, self.valid_radius).to(self.dtype)
        count = layout.structure.shape[0]
        table = Table.from_groups(edges.receivers, count, edges.known)
        return EdgeGraph(
            senders=edges.senders,
            receivers=edges.receivers,
            receiver_points=edges.receivers,
            count=count,
            rotation=rotation.with_blocks(block.to(self.dtype) for block in rotation.blocks),
            scalars=self.radial(distance, edges.features),
            table=table,
            slots=Slots.of(table, within, self.attend_self),
            structures=layout.table if self.sees_structures else None,
        )
