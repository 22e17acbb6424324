"""EquiformerV3: equivariant transformer for atoms (Liao et al. 2026, arXiv 2604.09130)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.published.activation import GATE, check_activation
from equiformer_pytorch.published.arguments import (
    check_choice,
    check_counts,
    check_flags,
    check_grid,
    check_orders,
    check_positive,
    check_rates,
    checkpointed_blocks,
)
from equiformer_pytorch.published.attention import VECTORS, AttentionOptions, GraphAttention
from equiformer_pytorch.published.block import Block
from equiformer_pytorch.published.checkpoint import FromCheckpoint, arguments_of
from equiformer_pytorch.published.drop import EquivariantDropout
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.feedforward import FeedForward
from equiformer_pytorch.published.heads import ScalarFeedForward, StressHead
from equiformer_pytorch.published.infer import infer_v3
from equiformer_pytorch.published.model import PublishedModel, Stack
from equiformer_pytorch.published.norm import DegreeNorm, MergedNorm, SeparableNorm
from equiformer_pytorch.published.radial import GaussianSmearing

# Averages over the structures of OC20's IS2RE 100k, 5 Å.
AVG_NUM_NODES, AVG_DEGREE = 77.81317, 23.395238876342773

NORMS = {
    "equivariant_layer_norm": DegreeNorm,
    "sep_layer_norm": SeparableNorm,
    "merge_layer_norm": MergedNorm,
    "merge_layer_norm_attn_rms_norm": MergedNorm,
    "merge_rms_norm": MergedNorm,
}
# Activations that the feed-forward network has without `use_grid_mlp`.
PLAIN = (GATE, "s2", "sep_s2", "sep-merge_gates2_swiglu")
# Near the poles, |y| above this, the official rotations of gradient models carry no gradient.
POLE = 0.999999


class EquiformerV3(FromCheckpoint, PublishedModel):
    r"""Energies of structures; forces and stress by heads of their own, or (``direct_prediction=False``) as the
    gradient of the energy, conservative.

    Arguments have the names, defaults and meanings of the official code (atomicarchitects/equiformer_v3), and
    parameters the names and shapes of its files, so that a published configuration can be pasted in. Where we differ:
    see docs/published_models.md. See :meth:`forward` for the call and :meth:`from_checkpoint` for published weights.

    Args:
        use_pbc: repeat structures along their cell vectors when finding edges.
        use_pbc_single, otf_graph: without effect: edges that are given are used, others are found.
        regress_forces, regress_stress: give forces, and stress.
        direct_prediction: by heads; False: from the gradient of the energy.
        max_neighbors: at most so many edges per receiver, the shortest, when finding edges.
        max_radius: cutoff, Å.
        num_radial_basis: Gaussians of the distance.
        max_num_elements: one more than the highest atomic number.
        num_layers, num_channels: depth and width.
        attn_hidden_channels, num_heads, attn_alpha_channels, attn_value_channels: of the attention.
        ffn_hidden_channels: of the feed-forward networks.
        norm_type: "equivariant_layer_norm", "sep_layer_norm", "merge_layer_norm", "merge_layer_norm_attn_rms_norm" or
            "merge_rms_norm".
        lmax, mmax: highest degree, and highest order in the frames of edges.
        attn_grid_resolution_list, ffn_grid_resolution_list: latitudes (even, at least 2(L+1)) and longitudes of the
            grids. More than 3·lmax and 3·mmax of them integrate products exactly; such grids are replaced by smaller
            ones with the same result.
        edge_channels: width of the radial networks and the element embeddings.
        use_atom_edge_embedding: whether radial networks see the elements of both ends.
        use_envelope: fade neighbours out at the cutoff.
        attn_activation, ffn_activation: see :class:`~equiformer_pytorch.published.activation.Activation`.
        use_attn_renorm: layer norm before the attention logits.
        use_add_merge: add the features of both ends of an edge instead of concatenating them.
        use_rad_l_parametrization: radial weights per degree, not per degree and order.
        softcap: bound of the attention logits.
        attn_eps: added to the denominator of the softmax.
        use_grid_mlp: feed-forward networks that act on samples.
        use_gate_force_head: gates in the force head instead of a sampled activation.
        alpha_drop, attn_mask_rate, attn_weights_drop, value_drop: dropout in the attention: of the features behind the
            logits (with it they go through a SiLU, as published), of neighbours, of weights, of messages.
        drop_path_rate, proj_drop, ffn_drop: of branches, of their channels, in the feed-forward networks.
        use_head_reg: without effect, as in the official code.
        gradient_checkpointing_block_list: 1 for each layer whose activations are computed again in the backward pass.
        avg_num_nodes, avg_degree: what sums over atoms and neighbours are divided by.
        enforce_max_neighbors_strictly: without effect: there are never more than `max_neighbors`, also of neighbours
            at equal distance.
        detach_frames: (not in the official code) cut rotations out of the graph where the official code does:
            everywhere with direct prediction, otherwise for edges within 0.08° of ±y. Then forces are not the exact
            gradient.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    infer_config = staticmethod(infer_v3)

    def __init__(
        self,
        use_pbc: bool = True,
        use_pbc_single: bool = False,
        otf_graph: bool = True,
        regress_forces: bool = True,
        regress_stress: bool = False,
        direct_prediction: bool = True,
        max_neighbors: int = 20,
        max_radius: float = 12.0,
        num_radial_basis: int = 600,
        max_num_elements: int = 128,
        num_layers: int = 12,
        num_channels: int = 128,
        attn_hidden_channels: int = 64,
        num_heads: int = 8,
        attn_alpha_channels: int = 32,
        attn_value_channels: int = 16,
        ffn_hidden_channels: int = 128,
        norm_type: str = "merge_layer_norm",
        lmax: int = 6,
        mmax: int = 2,
        attn_grid_resolution_list: Sequence[int] | None = (20, 8),
        ffn_grid_resolution_list: Sequence[int] | None = (20, 20),
        edge_channels: int = 128,
        use_atom_edge_embedding: bool = True,
        use_envelope: bool = True,
        attn_activation: str = "sep-merge_gates2_swiglu",
        use_attn_renorm: bool = True,
        use_add_merge: bool = False,
        use_rad_l_parametrization: bool = True,
        softcap: float | None = None,
        attn_eps: float = 1e-16,
        ffn_activation: str = "sep-merge_gates2_swiglu",
        use_grid_mlp: bool = True,
        use_gate_force_head: bool = True,
        alpha_drop: float = 0.0,
        attn_mask_rate: float = 0.0,
        attn_weights_drop: float = 0.1,
        value_drop: float = 0.0,
        drop_path_rate: float = 0.05,
        proj_drop: float = 0.0,
        ffn_drop: float = 0.0,
        use_head_reg: bool = False,
        gradient_checkpointing_block_list: Sequence[int] | None = None,
        avg_num_nodes: float = AVG_NUM_NODES,
        avg_degree: float = AVG_DEGREE,
        enforce_max_neighbors_strictly: bool = True,
        *,
        detach_frames: bool = False,
    ) -> None:
        config = arguments_of(locals())
        super().__init__()
        self.config = config
        check_flags(
            use_pbc=use_pbc,
            regress_forces=regress_forces,
            regress_stress=regress_stress,
            direct_prediction=direct_prediction,
            use_atom_edge_embedding=use_atom_edge_embedding,
            use_envelope=use_envelope,
            use_attn_renorm=use_attn_renorm,
            use_add_merge=use_add_merge,
            use_rad_l_parametrization=use_rad_l_parametrization,
            use_grid_mlp=use_grid_mlp,
            use_gate_force_head=use_gate_force_head,
            detach_frames=detach_frames,
        )
        check_counts(0, lmax=lmax, mmax=mmax)
        check_orders(lmax, mmax, ("lmax", "mmax"))
        check_counts(
            1,
            max_neighbors=max_neighbors,
            max_num_elements=max_num_elements,
            num_layers=num_layers,
            num_channels=num_channels,
            attn_hidden_channels=attn_hidden_channels,
            num_heads=num_heads,
            attn_alpha_channels=attn_alpha_channels,
            attn_value_channels=attn_value_channels,
            ffn_hidden_channels=ffn_hidden_channels,
            edge_channels=edge_channels,
        )
        check_counts(2, num_radial_basis=num_radial_basis)
        check_positive(max_radius=max_radius, avg_num_nodes=avg_num_nodes, avg_degree=avg_degree)
        if softcap is not None:
            check_positive(softcap=softcap)
        check_rates(
            attn_eps=attn_eps,
            alpha_drop=alpha_drop,
            attn_mask_rate=attn_mask_rate,
            attn_weights_drop=attn_weights_drop,
            value_drop=value_drop,
            drop_path_rate=drop_path_rate,
            proj_drop=proj_drop,
            ffn_drop=ffn_drop,
        )
        check_choice("norm_type", norm_type, NORMS)
        check_activation("attn_activation", attn_activation)
        check_activation("ffn_activation", ffn_activation)
        if use_grid_mlp and ffn_activation == GATE:
            raise ValueError("ffn_activation must act on a sphere with use_grid_mlp, got 'gate'")
        if not use_grid_mlp:
            check_choice("ffn_activation without use_grid_mlp", ffn_activation, PLAIN)
        if use_add_merge and not use_rad_l_parametrization:
            raise ValueError("use_add_merge needs use_rad_l_parametrization")
        if direct_prediction and lmax < max(1 * regress_forces, 2 * regress_stress):
            raise ValueError(f"direct forces need lmax of at least 1, and direct stress of at least 2; got {lmax}")
        if regress_stress and not (regress_forces or direct_prediction):
            raise ValueError("regress_stress needs regress_forces where both come from the gradient of the energy")
        check_grid("attn_grid_resolution_list", attn_grid_resolution_list, lmax)
        check_grid("ffn_grid_resolution_list", ffn_grid_resolution_list, lmax)

        self.cutoff, self.max_neighbors, self.use_pbc = float(max_radius), max_neighbors, use_pbc
        self.avg_num_nodes, self.detach_frames = avg_num_nodes, detach_frames
        self.direct_prediction = direct_prediction
        self.gradient_forces = regress_forces and not direct_prediction
        self.gradient_stress = self.gradient_forces and regress_stress
        self.sphere_embedding = nn.Embedding(max_num_elements, num_channels)
        self.distance_expansion = GaussianSmearing(self.cutoff, num_radial_basis)
        self.envelope = Envelope(5) if use_envelope else None
        self.edge_frames = EdgeFrames(lmax, mmax, shared=lmax + 1)
        radial = (num_radial_basis, edge_channels, edge_channels)
        elements = max_num_elements if use_atom_edge_embedding else 0
        self.edge_degree_embedding = EdgeDegreeEmbedding(num_channels, lmax, mmax, radial, elements, avg_degree)
        options = AttentionOptions(
            channels=num_channels,
            hidden_channels=attn_hidden_channels,
            heads=num_heads,
            alpha_channels=attn_alpha_channels,
            value_channels=attn_value_channels,
            max_degree=lmax,
            max_order=mmax,
            grid=attn_grid_resolution_list,
            activation=attn_activation,
            radial_widths=radial,
            elements=max_num_elements,
            element_embedding=use_atom_edge_embedding,
            per_degree_radial=use_rad_l_parametrization,
            add_ends=use_add_merge,
            renormalise=use_attn_renorm,
            rms="rms_norm" in norm_type,
            softcap=softcap,
            eps=attn_eps,
            alpha_silu=alpha_drop != 0.0,
            alpha_drop=alpha_drop,
            mask_rate=attn_mask_rate,
            weights_drop=attn_weights_drop,
            value_drop=value_drop,
        )

        def attention(channels_out: int, options: AttentionOptions, keep: tuple[int, int] | None) -> GraphAttention:
            names = "so2_linear", "so2_m_linear"
            return GraphAttention(options, channels_out, convolution=names, radial_inside=False, bias_rank=3, keep=keep)

        def norm() -> nn.Module:
            if norm_type == "merge_rms_norm":
                return MergedNorm(lmax, num_channels, centring=False)
            return NORMS[norm_type](lmax, num_channels)

        self.blocks = Stack(
            [
                Block(
                    norm(),
                    attention(num_channels, options, None),
                    norm(),
                    FeedForward(
                        num_channels,
                        ffn_hidden_channels,
                        num_channels,
                        lmax,
                        ffn_grid_resolution_list,
                        ffn_activation,
                        grid_mlp=use_grid_mlp,
                        bias_rank=3,
                        dropout=ffn_drop,
                    ),
                    drop_path_rate,
                    EquivariantDropout(proj_drop, lmax, by_degree=True),
                )
                for _ in range(num_layers)
            ],
            checkpointed_blocks(gradient_checkpointing_block_list, num_layers),
        )
        self.norm = norm()
        self.energy_block = ScalarFeedForward(num_channels, ffn_hidden_channels)
        self.force_block = self.stress_block = None
        if direct_prediction and regress_forces:
            of_head = replace(
                options,
                activation=GATE if use_gate_force_head else "sep_s2",
                alpha_silu=False,
                alpha_drop=0.0,
                mask_rate=0.0,
                weights_drop=0.0,
                value_drop=0.0,
            )
            self.force_block = attention(1, of_head, VECTORS)
        if direct_prediction and regress_stress:
            self.stress_block = StressHead(num_channels, ffn_hidden_channels, lmax)

    def _atom_energies(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, " atoms"]:
        return self.energy_block(x[:, 0]).squeeze(-1)

    def _for_rotation(self, vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, "edges 3"] | None:
        if not self.detach_frames or self.direct_prediction:
            return super()._for_rotation(vectors)
        pole = vectors[:, 1].abs() > POLE * vectors.norm(dim=1)
        return torch.where(pole[:, None], vectors.detach(), vectors)
