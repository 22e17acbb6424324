"""The layers of eSCN-MD, from structures with edges to features of atoms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.escn_md import system
from equiformer_pytorch.published.escn_md.arguments import NORMS, ESCNMDArguments, channels
from equiformer_pytorch.published.escn_md.atomwise import GridAtomwise, SpectralAtomwise
from equiformer_pytorch.published.escn_md.edgewise import Edgewise, Elements
from equiformer_pytorch.published.escn_md.experts import Mixture, Router, mixture_of, routing_network
from equiformer_pytorch.published.escn_md.frames import blended_frames
from equiformer_pytorch.published.escn_md.system import DatasetEmbedding, NumberEmbedding, Systems, balanced
from equiformer_pytorch.published.radial import GaussianSmearing, element_embeddings
from equiformer_pytorch.so3.rows import add_scalars, components

# What sums over neighbours are divided by in the edge-degree embedding, always.
AVERAGE = 5.0

Hidden = dict[str, Tensor]
# Hands on a state, and keeps it by its name where states are wanted.
Note = Callable[[str, Tensor], Tensor]


class Geometry(NamedTuple):
    """Atoms and edges as the layers see them, structure after structure, edges sorted by receiver."""

    numbers: Int[Tensor, " atoms"]
    batch: Int[Tensor, " atoms"]
    ends: Int[Tensor, "2 edges"]
    vectors: Float[Tensor, "edges 3"]
    frames: Float[Tensor, "edges 3 3"] | None
    """Rotations to use instead of our own."""


class Block(nn.Module):
    r"""One layer, with the vector s of the structure added to the invariants,

    .. math:: x ← x + \mathrm{Edgewise}(\mathrm{norm}\,x + s), \qquad x ← x + \mathrm{Atomwise}(\mathrm{norm}\,x).
    """

    def __init__(self, given: ESCNMDArguments, radial_widths: tuple[int, ...], experts: int) -> None:
        super().__init__()
        norm, width, hidden, degree = NORMS[given.norm_type], given.sphere_channels, given.hidden_channels, given.lmax
        self.norm_1 = norm(degree, width)
        self.edge_wise = Edgewise(width, hidden, degree, given.mmax, given.grid, given.act_type, radial_widths, experts)
        self.norm_2 = norm(degree, width)
        if given.ff_type == "spectral":
            self.atom_wise: nn.Module = SpectralAtomwise(width, hidden, degree)
        else:
            self.atom_wise = GridAtomwise(width, hidden, degree, given.grid)

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        edges: EdgeGraph,
        of_system: Float[Tensor, "atoms channels"],
        elements: Elements,
        mixture: Mixture | None,
        frozen: bool,
        note: Note,
    ) -> Float[Tensor, "atoms components channels"]:
        normed = note("_norm_1", self.norm_1(x))
        x = x + note("_edge_wise", self.edge_wise(add_scalars(normed, of_system), edges, elements, mixture, frozen))
        return note("", x + note("_atom_wise", self.atom_wise(self.norm_2(x))))


class Backbone(ExactConstants):
    """All layers; parameters have the names of fairchem's files.

    Args:
        given: of the model.
        known: the datasets that indices of :class:`~.system.Systems` mean.
    """

    def __init__(self, given: ESCNMDArguments, known: tuple[str, ...]) -> None:
        super().__init__()
        width, degree, embedded = given.sphere_channels, given.lmax, given.use_dataset_embedding
        self.cutoff, self.sampled = float(given.cutoff), given.act_type == "s2"
        self.shape = components(degree), width
        self.charge_channels = channels("charge_balanced_channels", given.charge_balanced_channels, width)
        self.spin_channels = channels("spin_balanced_channels", given.spin_balanced_channels, width)
        self.sphere_embedding = nn.Embedding(given.max_num_elements, width)
        kind, trained = given.chg_spin_emb_type, given.cs_emb_grad
        self.charge_embedding = NumberEmbedding(kind, width, system.CHARGES, spin=False, trained=trained)
        self.spin_embedding = NumberEmbedding(kind, width, system.SPINS, spin=True, trained=trained)
        self.dataset_embedding = None
        if embedded:
            self.dataset_embedding = DatasetEmbedding(given.datasets, known, width, trained=given.dataset_emb_grad)
        self.mix_csd = nn.Linear((3 if embedded else 2) * width, width)
        self.source_embedding, self.target_embedding = element_embeddings(given.max_num_elements, given.edge_channels)
        self.distance_expansion = GaussianSmearing(self.cutoff, given.num_distance_basis)
        self.envelope = Envelope(5)
        self.edge_frame = EdgeFrames(degree, given.mmax, shared=degree + 1)
        radial = (given.num_distance_basis + 2 * given.edge_channels, given.edge_channels, given.edge_channels)
        self.edge_degree_embedding = EdgeDegreeEmbedding(width, degree, given.mmax, radial, 0, AVERAGE, rescaled=False)
        mixing = range(given.num_layers) if given.layers_moe is None else given.layers_moe
        self.blocks = nn.ModuleList(
            Block(given, radial, given.num_experts if layer in mixing else 0) for layer in range(given.num_layers)
        )
        self.norm = NORMS[given.norm_type](degree, width)
        self.router = self.routing_mlp = self.composition_embedding = None
        if given.num_experts:
            norm, composed = given.moe_expert_coefficient_norm, given.use_composition_embedding
            self.router = Router(norm, given.moe_dropout, given.composition_dropout, given.model_id)
            self.routing_mlp = routing_network((2 if composed else 1) * width, given.num_experts)
            if composed:
                self.composition_embedding = nn.Embedding(given.max_num_elements, width)

    def forward(
        self, atoms: Geometry, systems: Systems, frozen: bool, hidden: Hidden | None
    ) -> Float[Tensor, "atoms components channels"]:
        """Features of the atoms after the last norm.

        Args:
            frozen: nothing is recorded of the parameters; see :class:`~.experts.Mixture`.
            hidden: takes states by the names of the reference files, where they are wanted.
        """
        note = partial(_note, hidden)
        of_structure = note("system_embedding", self.system(systems))
        mixture = None
        if self.router is not None:
            coefficients = note(
                "expert_coefficients", self.expert_coefficients(atoms.numbers, atoms.batch, of_structure)
            )
            mixture = mixture_of(coefficients, atoms.batch, atoms.ends[1], frozen)
        of_system = of_structure.index_select(0, atoms.batch)
        elements, edges = (self.source_embedding, self.target_embedding), self.edges(atoms)
        embedded = self.sphere_embedding(atoms.numbers) + of_system
        higher = embedded.new_zeros(embedded.shape[0], self.shape[0] - 1, self.shape[1])
        x = note("embedding", torch.cat((embedded[:, None], higher), dim=1))
        x = note("edge_degree", x + self.edge_degree_embedding(edges, x, elements))
        for index, block in enumerate(self.blocks):
            x = block(x, edges, of_system, elements, mixture, frozen, partial(_note, hidden, prefix=f"block_{index}"))
            x = balanced(x, self.charge_channels, systems.charge, atoms.batch)
            x = note(f"block_{index}_balanced", balanced(x, self.spin_channels, systems.spin - 1, atoms.batch))
        return note("final_norm", self.norm(x))

    def system(self, systems: Systems) -> Float[Tensor, "structures channels"]:
        """The vector of each structure: SiLU of a linear map of the embeddings of charge, spin and dataset."""
        parts = [self.charge_embedding(systems.charge), self.spin_embedding(systems.spin)]
        if self.dataset_embedding is not None:
            parts.append(self.dataset_embedding(systems.dataset))
        return F.silu(self.mix_csd(torch.cat(parts, dim=1)))

    def expert_coefficients(
        self,
        numbers: Int[Tensor, " atoms"],
        batch: Int[Tensor, " atoms"],
        of_structure: Float[Tensor, "structures channels"],
    ) -> Float[Tensor, "structures experts"]:
        """How experts are mixed for each structure; ValueError of a network without experts."""
        if self.router is None or self.routing_mlp is None:
            raise ValueError("num_experts is 0: there is nothing to mix")
        return self.router(self.routing_mlp, self.composition_embedding, numbers, batch, of_structure)

    def edges(self, atoms: Geometry) -> EdgeGraph:
        """All that layers need to know of the edges."""
        frames, dtype = atoms.frames, self.sphere_embedding.weight.dtype
        if self.sampled:  # which see how frames roll as the edge turns
            frames = blended_frames(atoms.vectors, frames)
        distance, rotation = self.edge_frame(atoms.vectors, frames)
        return EdgeGraph(
            senders=atoms.ends[0],
            receivers=atoms.ends[1],
            receiver_points=atoms.ends[1],
            count=atoms.numbers.shape[0],
            rotation=rotation.with_blocks(block.to(dtype) for block in rotation.blocks),
            scalars=self.distance_expansion(distance).to(dtype),
            envelope=self.envelope(distance, self.cutoff).to(dtype),
            kinds=atoms.numbers,
        )


def _note(hidden: Hidden | None, name: str, value: Tensor, prefix: str = "") -> Tensor:
    if hidden is not None:
        hidden[prefix + name] = value
    return value
