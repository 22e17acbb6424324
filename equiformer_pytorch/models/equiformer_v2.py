"""EquiformerV2: equivariant transformer for atoms (Liao et al. 2024, arXiv 2306.12059)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.published.activation import GATE
from equiformer_pytorch.published.arguments import (
    check_choice,
    check_counts,
    check_flags,
    check_grid,
    check_orders,
    check_positive,
    check_rates,
    checkpointed_blocks,
    single,
)
from equiformer_pytorch.published.attention import VECTORS, AttentionOptions, GraphAttention
from equiformer_pytorch.published.block import Block
from equiformer_pytorch.published.checkpoint import FromCheckpoint, arguments_of
from equiformer_pytorch.published.drop import EquivariantDropout
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.feedforward import INVARIANTS, FeedForward
from equiformer_pytorch.published.infer import infer_v2
from equiformer_pytorch.published.model import PublishedModel, Stack
from equiformer_pytorch.published.norm import DegreeNorm, MergedNorm, SeparableNorm
from equiformer_pytorch.published.radial import GaussianSmearing

# Averages over the structures of OC20's IS2RE 100k, 5 Å.
AVG_NUM_NODES, AVG_DEGREE = 77.81317, 23.395238876342773

NORMS = {"layer_norm": DegreeNorm, "layer_norm_sh": SeparableNorm, "rms_norm_sh": MergedNorm}
# Gaussians of the radial basis.
BASIS = 600


class EquiformerV2(FromCheckpoint, PublishedModel):
    """Energies of structures, and forces by a separate head, from atoms and their neighbours.

    Arguments have the names, defaults and meanings of the official code (atomicarchitects/equiformer_v2), and
    parameters the names and shapes of its files, so that a published configuration can be pasted in. Where we differ:
    see docs/published_models.md. See :meth:`forward` for the call and :meth:`from_checkpoint` for published weights.

    Args:
        num_atoms, bond_feat_dim, num_targets: without effect, as in the official code.
        use_pbc: repeat structures along their cell vectors when finding edges.
        regress_forces: have the force head.
        otf_graph: without effect: edges that are given are used, others are found.
        max_neighbors: at most so many edges per receiver, the shortest, when finding edges.
        max_radius: cutoff, Å.
        max_num_elements: one more than the highest atomic number.
        num_layers, sphere_channels: depth and width.
        attn_hidden_channels, num_heads, attn_alpha_channels, attn_value_channels: of the attention.
        ffn_hidden_channels: of the feed-forward networks.
        norm_type: "layer_norm", "layer_norm_sh" or "rms_norm_sh".
        lmax_list, mmax_list: one entry each: highest degree, and highest order in the frames of edges.
        grid_resolution: latitudes and longitudes of the grid on which sampled activations act, even and at least
            2(L+1). They are equivariant only approximately; the more samples, the better.
        num_sphere_samples, num_distance_basis: without effect, as in the official code.
        edge_channels: width of the radial networks and the element embeddings.
        use_atom_edge_embedding, share_atom_edge_embedding: whether radial networks see the elements of both ends, and
            whether through the same embeddings in all of them.
        use_m_share_rad: radial weights per degree, not per degree and order.
        distance_function: "gaussian".
        attn_activation, ffn_activation: without effect, as in the official code, which has SiLU everywhere.
        use_s2_act_attn: False; the official code has no other.
        use_attn_renorm: layer norm before the attention logits.
        use_gate_act: gates instead of sampled activations (the feed-forward only without `use_grid_mlp`).
        use_grid_mlp: feed-forward networks that act on samples.
        use_sep_s2_act: separable activations: invariants on a path of their own.
        alpha_drop, drop_path_rate, proj_drop: dropout of attention weights, of branches, of their channels.
        weight_init: "normal" or "uniform".
        gradient_checkpointing_block_list: (not in the official code) 1 for each layer whose activations are computed
            again in the backward pass, 0 for the others.
        detach_frames: (not in the official code) cut rotations out of the graph, as published. Then the gradient of the
            energy is not the force.
        avg_num_nodes, avg_degree: (not in the official code, constants there) what sums over atoms and neighbours are
            divided by.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    infer_config = staticmethod(infer_v2)

    def __init__(
        self,
        num_atoms: int | None = None,
        bond_feat_dim: int | None = None,
        num_targets: int | None = None,
        use_pbc: bool = True,
        regress_forces: bool = True,
        otf_graph: bool = True,
        max_neighbors: int = 500,
        max_radius: float = 5.0,
        max_num_elements: int = 90,
        num_layers: int = 12,
        sphere_channels: int = 128,
        attn_hidden_channels: int = 128,
        num_heads: int = 8,
        attn_alpha_channels: int = 32,
        attn_value_channels: int = 16,
        ffn_hidden_channels: int = 512,
        norm_type: str = "rms_norm_sh",
        lmax_list: Sequence[int] = (6,),
        mmax_list: Sequence[int] = (2,),
        grid_resolution: int | None = None,
        num_sphere_samples: int = 128,
        edge_channels: int = 128,
        use_atom_edge_embedding: bool = True,
        share_atom_edge_embedding: bool = False,
        use_m_share_rad: bool = False,
        distance_function: str = "gaussian",
        num_distance_basis: int = 512,
        attn_activation: str = "scaled_silu",
        use_s2_act_attn: bool = False,
        use_attn_renorm: bool = True,
        ffn_activation: str = "scaled_silu",
        use_gate_act: bool = False,
        use_grid_mlp: bool = False,
        use_sep_s2_act: bool = True,
        alpha_drop: float = 0.1,
        drop_path_rate: float = 0.05,
        proj_drop: float = 0.0,
        weight_init: str = "normal",
        *,
        gradient_checkpointing_block_list: Sequence[int] | None = None,
        detach_frames: bool = False,
        avg_num_nodes: float = AVG_NUM_NODES,
        avg_degree: float = AVG_DEGREE,
    ) -> None:
        config = arguments_of(locals())
        super().__init__()
        self.config = config
        check_flags(
            use_pbc=use_pbc,
            regress_forces=regress_forces,
            use_atom_edge_embedding=use_atom_edge_embedding,
            share_atom_edge_embedding=share_atom_edge_embedding,
            use_m_share_rad=use_m_share_rad,
            use_attn_renorm=use_attn_renorm,
            use_gate_act=use_gate_act,
            use_grid_mlp=use_grid_mlp,
            use_sep_s2_act=use_sep_s2_act,
            detach_frames=detach_frames,
        )
        lmax, mmax = single("lmax_list", lmax_list), single("mmax_list", mmax_list)
        check_orders(lmax, mmax, ("lmax_list", "mmax_list"))
        check_counts(
            1,
            max_neighbors=max_neighbors,
            max_num_elements=max_num_elements,
            num_layers=num_layers,
            sphere_channels=sphere_channels,
            attn_hidden_channels=attn_hidden_channels,
            num_heads=num_heads,
            attn_alpha_channels=attn_alpha_channels,
            attn_value_channels=attn_value_channels,
            ffn_hidden_channels=ffn_hidden_channels,
            edge_channels=edge_channels,
        )
        check_positive(max_radius=max_radius, avg_num_nodes=avg_num_nodes, avg_degree=avg_degree)
        check_rates(alpha_drop=alpha_drop, drop_path_rate=drop_path_rate, proj_drop=proj_drop)
        check_choice("norm_type", norm_type, NORMS)
        check_choice("distance_function", distance_function, ("gaussian",))
        check_choice("weight_init", weight_init, ("normal", "uniform"))
        if use_s2_act_attn:
            raise ValueError("use_s2_act_attn must be False: the published network has no such attention")
        if share_atom_edge_embedding and not use_atom_edge_embedding:
            raise ValueError("share_atom_edge_embedding needs use_atom_edge_embedding")
        if regress_forces and lmax < 1:
            raise ValueError("regress_forces needs a degree of at least 1 in lmax_list")
        if grid_resolution is not None:
            check_counts(1, grid_resolution=grid_resolution)
        grid = None if grid_resolution is None else (grid_resolution, grid_resolution)
        check_grid("grid_resolution", grid, lmax)

        self.cutoff, self.max_neighbors, self.use_pbc = float(max_radius), max_neighbors, use_pbc
        self.avg_num_nodes, self.detach_frames = avg_num_nodes, detach_frames
        normal = weight_init == "normal"
        self.sphere_embedding = nn.Embedding(max_num_elements, sphere_channels)
        self.distance_expansion, self.envelope = GaussianSmearing(self.cutoff, BASIS), None
        self.edge_frames = EdgeFrames(lmax, mmax, shared=lmax + 1)
        basis, own = BASIS, use_atom_edge_embedding and not share_atom_edge_embedding
        self.source_embedding = self.target_embedding = None
        if share_atom_edge_embedding:
            self.source_embedding = nn.Embedding(max_num_elements, edge_channels)
            self.target_embedding = nn.Embedding(max_num_elements, edge_channels)
            basis += 2 * edge_channels
        radial = (basis, edge_channels, edge_channels)
        self.edge_degree_embedding = EdgeDegreeEmbedding(
            sphere_channels, lmax, mmax, radial, max_num_elements if own else 0, avg_degree
        )
        separable = "sep_s2" if use_sep_s2_act else "s2"
        options = AttentionOptions(
            channels=sphere_channels,
            hidden_channels=attn_hidden_channels,
            heads=num_heads,
            alpha_channels=attn_alpha_channels,
            value_channels=attn_value_channels,
            max_degree=lmax,
            max_order=mmax,
            grid=grid,
            activation=GATE if use_gate_act else separable,
            radial_widths=radial,
            elements=max_num_elements,
            element_embedding=own,
            per_degree_radial=use_m_share_rad,
            renormalise=use_attn_renorm,
            weights_drop=alpha_drop,
            normal_init=normal,
        )

        def attention(channels_out: int, options: AttentionOptions, keep: tuple[int, int] | None) -> GraphAttention:
            names = "so2_conv", "so2_m_conv"
            inside = not use_m_share_rad
            return GraphAttention(
                options, channels_out, convolution=names, radial_inside=inside, bias_rank=1, keep=keep
            )

        def feed_forward(channels_out: int, keep: tuple[int, int] | None) -> FeedForward:
            return FeedForward(
                sphere_channels,
                ffn_hidden_channels,
                channels_out,
                lmax,
                grid,
                GATE if use_gate_act and not use_grid_mlp else separable,
                grid_mlp=use_grid_mlp,
                bias_rank=1,
                keep=keep,
                normal_init=normal,
                positions=(0, 2, 4),
            )

        norm = NORMS[norm_type]
        self.blocks = Stack(
            [
                Block(
                    norm(lmax, sphere_channels),
                    attention(sphere_channels, options, None),
                    norm(lmax, sphere_channels),
                    feed_forward(sphere_channels, None),
                    drop_path_rate,
                    EquivariantDropout(proj_drop, lmax, by_degree=False),
                )
                for _ in range(num_layers)
            ],
            checkpointed_blocks(gradient_checkpointing_block_list, num_layers),
        )
        self.norm = norm(lmax, sphere_channels)
        self.energy_block = feed_forward(1, INVARIANTS)
        self.force_block = attention(1, replace(options, weights_drop=0.0), VECTORS) if regress_forces else None
        self.stress_block = None

    def _atom_energies(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, " atoms"]:
        return self.energy_block(x)[:, 0, 0]

    def _basis(
        self, distance: Float[Tensor, " edges"], numbers: Int[Tensor, " atoms"], ends: Int[Tensor, "2 edges"]
    ) -> Float[Tensor, "edges basis"]:
        basis = super()._basis(distance, numbers, ends)
        if self.source_embedding is None or self.target_embedding is None:
            return basis
        senders, receivers = numbers[ends[0]], numbers[ends[1]]
        return torch.cat((basis, self.source_embedding(senders), self.target_embedding(receivers)), dim=1)
