"""EquiformerV3: equivariant transformer for atoms (Liao et al. 2026, arXiv 2604.09130)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.arguments import (
    as_config,
    check_choice,
    check_fields,
    choice,
    count,
    flag,
    positive,
    rate,
    takes,
)
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.published.activation import GATE, check_activation
from equiformer_pytorch.published.arguments import check_grid, check_orders, checkpointed_blocks
from equiformer_pytorch.published.attention import VECTORS, AttentionOptions, GraphAttention
from equiformer_pytorch.published.block import Block
from equiformer_pytorch.published.checkpoint import FromCheckpoint
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


@dataclass(frozen=True)
class EquiformerV3Arguments:
    """The arguments of :class:`EquiformerV3`, checked."""

    use_pbc: bool = flag(True)
    use_pbc_single: bool = False
    otf_graph: bool = True
    regress_forces: bool = flag(True)
    regress_stress: bool = flag(False)
    direct_prediction: bool = flag(True)
    max_neighbors: int = count(20)
    max_radius: float = positive(12.0)
    num_radial_basis: int = count(600, least=2)
    max_num_elements: int = count(128)
    num_layers: int = count(12)
    num_channels: int = count(128)
    attn_hidden_channels: int = count(64)
    num_heads: int = count(8)
    attn_alpha_channels: int = count(32)
    attn_value_channels: int = count(16)
    ffn_hidden_channels: int = count(128)
    norm_type: str = choice("merge_layer_norm", NORMS)
    lmax: int = count(6, least=0)
    mmax: int = count(2, least=0)
    attn_grid_resolution_list: Sequence[int] | None = (20, 8)
    ffn_grid_resolution_list: Sequence[int] | None = (20, 20)
    edge_channels: int = count(128)
    use_atom_edge_embedding: bool = flag(True)
    use_envelope: bool = flag(True)
    attn_activation: str = "sep-merge_gates2_swiglu"
    use_attn_renorm: bool = flag(True)
    use_add_merge: bool = flag(False)
    use_rad_l_parametrization: bool = flag(True)
    softcap: float | None = positive(None)
    attn_eps: float = rate(1e-16)
    ffn_activation: str = "sep-merge_gates2_swiglu"
    use_grid_mlp: bool = flag(True)
    use_gate_force_head: bool = flag(True)
    alpha_drop: float = rate(0.0)
    attn_mask_rate: float = rate(0.0)
    attn_weights_drop: float = rate(0.1)
    value_drop: float = rate(0.0)
    drop_path_rate: float = rate(0.05)
    proj_drop: float = rate(0.0)
    ffn_drop: float = rate(0.0)
    use_head_reg: bool = False
    gradient_checkpointing_block_list: Sequence[int] | None = None
    avg_num_nodes: float = positive(AVG_NUM_NODES)
    avg_degree: float = positive(AVG_DEGREE)
    enforce_max_neighbors_strictly: bool = flag(True)
    _: KW_ONLY
    detach_frames: bool = flag(False)

    def __post_init__(self) -> None:
        check_fields(self)
        check_orders(self.lmax, self.mmax, ("lmax", "mmax"))
        check_activation("attn_activation", self.attn_activation)
        check_activation("ffn_activation", self.ffn_activation)
        if self.use_grid_mlp and self.ffn_activation == GATE:
            raise ValueError("ffn_activation must act on a sphere with use_grid_mlp, got 'gate'")
        if not self.use_grid_mlp:
            check_choice("ffn_activation without use_grid_mlp", self.ffn_activation, PLAIN)
        if self.use_add_merge and not self.use_rad_l_parametrization:
            raise ValueError("use_add_merge needs use_rad_l_parametrization")
        if self.direct_prediction and self.lmax < max(1 * self.regress_forces, 2 * self.regress_stress):
            raise ValueError(f"direct forces need lmax of at least 1, and direct stress of at least 2; got {self.lmax}")
        if self.regress_stress and not (self.regress_forces or self.direct_prediction):
            raise ValueError("regress_stress needs regress_forces where both come from the gradient of the energy")
        check_grid("attn_grid_resolution_list", self.attn_grid_resolution_list, self.lmax)
        check_grid("ffn_grid_resolution_list", self.ffn_grid_resolution_list, self.lmax)


class EquiformerV3(FromCheckpoint, PublishedModel):
    r"""Energies of structures; forces and stress by heads of their own, or (``direct_prediction=False``) as the
    gradient of the energy, conservative (Liao et al. 2026, arXiv 2604.09130). In each layer, and at the end,

    .. math:: x ← x + \mathrm{Attention}(\mathrm{norm}\,x), \qquad x ← x + \mathrm{FeedForward}(\mathrm{norm}\,x),
        \qquad E = \frac{1}{\bar n} \sum_i \epsilon(\mathrm{norm}\,x_i),

    with n̄ = `avg_num_nodes`. Lengths are in Å, results in the units that the weights were trained on; with the
    normalisers of a checkpoint :meth:`predict` and :meth:`evaluate` give eV, eV/Å and eV/Å³, energies in float64.

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
        enforce_max_neighbors_strictly: False: the nearest neighbour beyond `max_neighbors` is kept, too, and all
            that are hardly farther; see :func:`~equiformer_pytorch.atoms.radius_graph`.
        detach_frames: (not in the official code) cut rotations out of the graph where the official code does:
            everywhere with direct prediction, otherwise for edges within 0.08° of ±y. Then forces are not the exact
            gradient.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    family = "EquiformerV3"
    mark = ".ga.so2_linear_1."
    infer_config = staticmethod(infer_v3)

    @takes(EquiformerV3Arguments)
    def __init__(self, given: EquiformerV3Arguments) -> None:
        super().__init__()
        self.config = as_config(given)
        self.cutoff, self.max_neighbors, self.use_pbc = float(given.max_radius), given.max_neighbors, given.use_pbc
        self.strict_neighbors = given.enforce_max_neighbors_strictly
        self.avg_num_nodes, self.detach_frames = given.avg_num_nodes, given.detach_frames
        self.direct_prediction = given.direct_prediction
        self.gradient_forces = given.regress_forces and not given.direct_prediction
        self.gradient_stress = self.gradient_forces and given.regress_stress
        self.sphere_embedding = nn.Embedding(given.max_num_elements, given.num_channels)
        self.distance_expansion = GaussianSmearing(self.cutoff, given.num_radial_basis)
        self.envelope = Envelope(5) if given.use_envelope else None
        self.edge_frame = EdgeFrames(given.lmax, given.mmax, shared=given.lmax + 1)
        radial = (given.num_radial_basis, given.edge_channels, given.edge_channels)
        elements = given.max_num_elements if given.use_atom_edge_embedding else 0
        self.edge_degree_embedding = EdgeDegreeEmbedding(
            given.num_channels, given.lmax, given.mmax, radial, elements, given.avg_degree
        )
        options = AttentionOptions(
            channels=given.num_channels,
            hidden_channels=given.attn_hidden_channels,
            heads=given.num_heads,
            alpha_channels=given.attn_alpha_channels,
            value_channels=given.attn_value_channels,
            max_degree=given.lmax,
            max_order=given.mmax,
            grid=given.attn_grid_resolution_list,
            activation=given.attn_activation,
            radial_widths=radial,
            elements=given.max_num_elements,
            element_embedding=given.use_atom_edge_embedding,
            per_degree_radial=given.use_rad_l_parametrization,
            add_ends=given.use_add_merge,
            renormalise=given.use_attn_renorm,
            rms="rms_norm" in given.norm_type,
            softcap=given.softcap,
            eps=given.attn_eps,
            alpha_silu=given.alpha_drop != 0.0,
            alpha_drop=given.alpha_drop,
            mask_rate=given.attn_mask_rate,
            weights_drop=given.attn_weights_drop,
            value_drop=given.value_drop,
        )

        def attention(channels_out: int, options: AttentionOptions, keep: tuple[int, int] | None) -> GraphAttention:
            names = "so2_linear", "so2_m_linear"
            return GraphAttention(options, channels_out, convolution=names, radial_inside=False, bias_rank=3, keep=keep)

        def norm() -> nn.Module:
            if given.norm_type == "merge_rms_norm":
                return MergedNorm(given.lmax, given.num_channels, centring=False)
            return NORMS[given.norm_type](given.lmax, given.num_channels)

        self.blocks = Stack(
            [
                Block(
                    norm(),
                    attention(given.num_channels, options, None),
                    norm(),
                    FeedForward(
                        given.num_channels,
                        given.ffn_hidden_channels,
                        given.num_channels,
                        given.lmax,
                        given.ffn_grid_resolution_list,
                        given.ffn_activation,
                        grid_mlp=given.use_grid_mlp,
                        bias_rank=3,
                        dropout=given.ffn_drop,
                    ),
                    given.drop_path_rate,
                    EquivariantDropout(given.proj_drop, given.lmax, by_degree=True),
                )
                for _ in range(given.num_layers)
            ],
            checkpointed_blocks(given.gradient_checkpointing_block_list, given.num_layers),
        )
        self.norm = norm()
        self.energy_block = ScalarFeedForward(given.num_channels, given.ffn_hidden_channels)
        self.force_block = self.stress_block = None
        if given.direct_prediction and given.regress_forces:
            of_head = replace(
                options,
                activation=GATE if given.use_gate_force_head else "sep_s2",
                alpha_silu=False,
                alpha_drop=0.0,
                mask_rate=0.0,
                weights_drop=0.0,
                value_drop=0.0,
            )
            self.force_block = attention(1, of_head, VECTORS)
        if given.direct_prediction and given.regress_stress:
            self.stress_block = StressHead(given.num_channels, given.ffn_hidden_channels, given.lmax)

    def _atom_energies(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, " atoms"]:
        return self.energy_block(x[:, 0]).squeeze(-1)

    def _for_rotation(self, vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, "edges 3"] | None:
        if not self.detach_frames or self.direct_prediction:
            return super()._for_rotation(vectors)
        pole = vectors[:, 1].abs() > POLE * vectors.norm(dim=1)
        return torch.where(pole[:, None], vectors.detach(), vectors)
