"""EquiformerV2: equivariant transformer for atoms (Liao et al. 2024, arXiv 2306.12059)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.base.arguments import as_config, check_fields, choice, count, flag, positive, rate, takes
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.published.activation import GATE
from equiformer_pytorch.published.arguments import check_grid, check_orders, checkpointed_blocks, single
from equiformer_pytorch.published.attention import VECTORS, AttentionOptions, GraphAttention
from equiformer_pytorch.published.block import Block
from equiformer_pytorch.published.checkpoint import FromCheckpoint
from equiformer_pytorch.published.drop import EquivariantDropout
from equiformer_pytorch.published.edge_stress import EdgeStressArguments, EdgeStressHead
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.feedforward import INVARIANTS, FeedForward
from equiformer_pytorch.published.hydra import from_hydra, is_hydra
from equiformer_pytorch.published.infer import infer_v2
from equiformer_pytorch.published.model import PublishedModel, Stack
from equiformer_pytorch.published.norm import DegreeNorm, MergedNorm, SeparableNorm
from equiformer_pytorch.published.radial import GaussianSmearing

# Averages over the structures of OC20's IS2RE 100k, 5 Å.
AVG_NUM_NODES, AVG_DEGREE = 77.81317, 23.395238876342773

NORMS = {"layer_norm": DegreeNorm, "layer_norm_sh": SeparableNorm, "rms_norm_sh": MergedNorm}
# Gaussians of the radial basis.
BASIS = 600


@dataclass(frozen=True)
class EquiformerV2Arguments:
    """The arguments of :class:`EquiformerV2`, checked."""

    num_atoms: int | None = None
    bond_feat_dim: int | None = None
    num_targets: int | None = None
    use_pbc: bool = flag(True)
    regress_forces: bool = flag(True)
    otf_graph: bool = True
    max_neighbors: int = count(500)
    max_radius: float = positive(5.0)
    max_num_elements: int = count(90)
    num_layers: int = count(12)
    sphere_channels: int = count(128)
    attn_hidden_channels: int = count(128)
    num_heads: int = count(8)
    attn_alpha_channels: int = count(32)
    attn_value_channels: int = count(16)
    ffn_hidden_channels: int = count(512)
    norm_type: str = choice("rms_norm_sh", NORMS)
    lmax_list: Sequence[int] = (6,)
    mmax_list: Sequence[int] = (2,)
    grid_resolution: int | None = count(None)
    num_sphere_samples: int = 128
    edge_channels: int = count(128)
    use_atom_edge_embedding: bool = flag(True)
    share_atom_edge_embedding: bool = flag(False)
    use_m_share_rad: bool = flag(False)
    distance_function: str = choice("gaussian", ("gaussian",))
    num_distance_basis: int = 512
    attn_activation: str = "scaled_silu"
    use_s2_act_attn: bool = False
    use_attn_renorm: bool = flag(True)
    ffn_activation: str = "scaled_silu"
    use_gate_act: bool = flag(False)
    use_grid_mlp: bool = flag(False)
    use_sep_s2_act: bool = flag(True)
    alpha_drop: float = rate(0.1)
    drop_path_rate: float = rate(0.05)
    proj_drop: float = rate(0.0)
    weight_init: str = choice("normal", ("normal", "uniform"))
    _: KW_ONLY
    gradient_checkpointing_block_list: Sequence[int] | None = None
    detach_frames: bool = flag(False)
    avg_num_nodes: float = positive(AVG_NUM_NODES)
    avg_degree: float = positive(AVG_DEGREE)
    enforce_max_neighbors_strictly: bool = flag(True)
    stress_head: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        lmax, mmax = single("lmax_list", self.lmax_list), single("mmax_list", self.mmax_list)
        check_orders(lmax, mmax, ("lmax_list", "mmax_list"))
        if self.use_s2_act_attn:
            raise ValueError("use_s2_act_attn must be False: the published network has no such attention")
        if self.share_atom_edge_embedding and not self.use_atom_edge_embedding:
            raise ValueError("share_atom_edge_embedding needs use_atom_edge_embedding")
        if self.regress_forces and lmax < 1:
            raise ValueError("regress_forces needs a degree of at least 1 in lmax_list")
        if self.stress_head is not None and lmax < 2:
            raise ValueError("stress_head needs a degree of at least 2 in lmax_list")
        check_grid("grid_resolution", self.grid, lmax)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Latitudes and longitudes."""
        return None if self.grid_resolution is None else (self.grid_resolution, self.grid_resolution)


class EquiformerV2(FromCheckpoint, PublishedModel):
    r"""Energies of structures, and forces and stress by separate heads, from atoms and their neighbours (Liao et al.
    2024, arXiv 2306.12059). In each layer, and at the end,

    .. math:: x ← x + \mathrm{Attention}(\mathrm{norm}\,x), \qquad x ← x + \mathrm{FeedForward}(\mathrm{norm}\,x),
        \qquad E = \frac{1}{\bar n} \sum_i \epsilon(\mathrm{norm}\,x_i),

    with n̄ = `avg_num_nodes`. Lengths are in Å, results in the units that the weights were trained on; with the
    normalisers of a checkpoint :meth:`predict` and :meth:`evaluate` give eV, eV/Å and eV/Å³, energies in float64.

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
        enforce_max_neighbors_strictly: (of fairchem 1) False: neighbours at nearly the distance of the nearest one
            beyond `max_neighbors`, and that one itself, are kept, too, so that symmetry decides and not the order of
            atoms; see :func:`~equiformer_pytorch.atoms.radius_graph`.
        stress_head: (of fairchem 1) have a head for the stress, eV/Å³, positive under tension, with these options of
            its ``rank2_symmetric_head``: `decompose`, `edge_level_mlp`, `num_mlp_layers`,
            `use_source_target_embedding`, `extensive`, `avg_num_nodes`; {} for its defaults. It is no derivative of
            the energy, as the forces are none, and turns with the structure only as far as was learned: see
            :class:`~equiformer_pytorch.published.edge_stress.EdgeStressHead`.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    family = "EquiformerV2"
    mark = ".ga.so2_conv_1."
    infer_config = staticmethod(infer_v2)

    @takes(EquiformerV2Arguments)
    def __init__(self, given: EquiformerV2Arguments) -> None:
        super().__init__()
        self.config = as_config(given)
        (lmax,), (mmax,) = given.lmax_list, given.mmax_list
        self.cutoff, self.max_neighbors, self.use_pbc = float(given.max_radius), given.max_neighbors, given.use_pbc
        self.avg_num_nodes, self.detach_frames = given.avg_num_nodes, given.detach_frames
        self.strict_neighbors = given.enforce_max_neighbors_strictly
        normal = given.weight_init == "normal"
        self.sphere_embedding = nn.Embedding(given.max_num_elements, given.sphere_channels)
        self.distance_expansion, self.envelope = GaussianSmearing(self.cutoff, BASIS), None
        self.edge_frame = EdgeFrames(lmax, mmax, shared=lmax + 1)
        basis, own = BASIS, given.use_atom_edge_embedding and not given.share_atom_edge_embedding
        self.source_embedding = self.target_embedding = None
        if given.share_atom_edge_embedding:
            self.source_embedding = nn.Embedding(given.max_num_elements, given.edge_channels)
            self.target_embedding = nn.Embedding(given.max_num_elements, given.edge_channels)
            basis += 2 * given.edge_channels
        radial = (basis, given.edge_channels, given.edge_channels)
        self.edge_degree_embedding = EdgeDegreeEmbedding(
            given.sphere_channels, lmax, mmax, radial, given.max_num_elements if own else 0, given.avg_degree
        )
        separable = "sep_s2" if given.use_sep_s2_act else "s2"
        options = AttentionOptions(
            channels=given.sphere_channels,
            hidden_channels=given.attn_hidden_channels,
            heads=given.num_heads,
            alpha_channels=given.attn_alpha_channels,
            value_channels=given.attn_value_channels,
            max_degree=lmax,
            max_order=mmax,
            grid=given.grid,
            activation=GATE if given.use_gate_act else separable,
            radial_widths=radial,
            elements=given.max_num_elements,
            element_embedding=own,
            per_degree_radial=given.use_m_share_rad,
            renormalise=given.use_attn_renorm,
            weights_drop=given.alpha_drop,
            normal_init=normal,
        )

        def attention(channels_out: int, options: AttentionOptions, keep: tuple[int, int] | None) -> GraphAttention:
            names = "so2_conv", "so2_m_conv"
            inside = not given.use_m_share_rad
            return GraphAttention(
                options, channels_out, convolution=names, radial_inside=inside, bias_rank=1, keep=keep
            )

        def feed_forward(channels_out: int, keep: tuple[int, int] | None) -> FeedForward:
            return FeedForward(
                given.sphere_channels,
                given.ffn_hidden_channels,
                channels_out,
                lmax,
                given.grid,
                GATE if given.use_gate_act and not given.use_grid_mlp else separable,
                grid_mlp=given.use_grid_mlp,
                bias_rank=1,
                keep=keep,
                normal_init=normal,
                positions=(0, 2, 4),
            )

        norm = NORMS[given.norm_type]
        self.blocks = Stack(
            [
                Block(
                    norm(lmax, given.sphere_channels),
                    attention(given.sphere_channels, options, None),
                    norm(lmax, given.sphere_channels),
                    feed_forward(given.sphere_channels, None),
                    given.drop_path_rate,
                    EquivariantDropout(given.proj_drop, lmax, by_degree=False),
                )
                for _ in range(given.num_layers)
            ],
            checkpointed_blocks(given.gradient_checkpointing_block_list, given.num_layers),
        )
        self.norm = norm(lmax, given.sphere_channels)
        self.energy_block = feed_forward(1, INVARIANTS)
        self.force_block = attention(1, replace(options, weights_drop=0.0), VECTORS) if given.regress_forces else None
        self.stress_block = None
        if given.stress_head is not None:
            of_stress = EdgeStressArguments.of("stress_head", given.stress_head)
            self.stress_block = EdgeStressHead(given.sphere_channels, lmax, norm(lmax, 1), of_stress)

    @classmethod
    def laid_out(cls, contents: Mapping[str, Any], ema: bool, config: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return from_hydra(contents, ema, config) if is_hydra(contents) else contents

    def leave_out_stress_head(self) -> None:
        self.stress_block = self.config["stress_head"] = None

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
