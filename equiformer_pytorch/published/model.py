"""What EquiformerV2 and EquiformerV3 share: from structures through the layers to energy, forces and stress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import EdgeFrames, check_frames
from equiformer_pytorch.inputs.structures import EdgeGeometry, Structures, gather_structures
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.legacy.modules import adopt, is_old
from equiformer_pytorch.published.attention import GraphAttention
from equiformer_pytorch.published.block import Block
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.heads import StressHead
from equiformer_pytorch.published.radial import GaussianSmearing
from equiformer_pytorch.published.scales import Scales


class Stack(nn.ModuleList):
    """The layers, one after the other; those marked in `recomputed` keep no activations for the backward pass."""

    def __init__(self, blocks: list[Block], recomputed: list[bool]) -> None:
        super().__init__(blocks)
        self.recomputed = recomputed

    def forward(
        self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph, batch: Int[Tensor, " atoms"], structures: int
    ) -> Float[Tensor, "atoms components channels"]:
        for block, recomputed in zip(self, self.recomputed, strict=True):
            if recomputed and torch.is_grad_enabled():
                x = checkpoint(block, x, edges, batch, structures, use_reentrant=False)
            else:
                x = block(x, edges, batch, structures)
        return x


class PublishedModel(ExactConstants, ABC):
    """The common part of the published models. Parameters have the names and shapes of the published files."""

    sphere_embedding: nn.Embedding
    distance_expansion: GaussianSmearing
    envelope: Envelope | None
    edge_frames: EdgeFrames
    edge_degree_embedding: EdgeDegreeEmbedding
    blocks: Stack
    norm: nn.Module
    energy_block: nn.Module
    force_block: GraphAttention | None
    stress_block: StressHead | None

    cutoff: float
    max_neighbors: int
    use_pbc: bool
    avg_num_nodes: float
    gradient_forces: bool = False
    gradient_stress: bool = False
    detach_frames: bool

    def __init__(self) -> None:
        super().__init__()
        self.scales = Scales()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if is_old(state, "edge_frames"):
            adopt(self, state, state["config"])
            self.scales = state["scales"]
        else:
            super().__setstate__(state)

    def forward(
        self,
        data: Any = None,
        *,
        atomic_numbers: Int[Tensor, " atoms"] | None = None,
        pos: Float[Tensor, "atoms 3"] | None = None,
        cell: Float[Tensor, "structures 3 3"] | None = None,
        batch: Int[Tensor, " atoms"] | None = None,
        pbc: Bool[Tensor, "structures 3"] | None = None,
        edge_index: Int[Tensor, "2 edges"] | None = None,
        cell_offsets: Float[Tensor, "edges 3"] | None = None,
        edge_frames: Float[Tensor, "edges 3 3"] | None = None,
        return_hidden: bool = False,
    ) -> dict[str, Any]:
        r"""Energy of structures, forces on atoms, stress.

        Args:
            data: instead of the tensors an object that has them as attributes (as batches of PyTorch Geometric do), ASE
                atoms, or a list of these. Integers and lengths as below.
            atomic_numbers: of all atoms of all structures.
            pos: positions in Å, in float32 or wider; geometry is computed in their dtype, layers in that of the
                weights.
            cell: cell vectors as rows, Å.
            batch: structure of each atom, ascending; without it there is one structure.
            pbc: which cell vectors repeat; all where `cell` is given. Only needed when edges are to be found.
            edge_index: [sender, receiver] of each edge. Without it all pairs within the cutoff, at most
                `max_neighbors` per receiver.
            cell_offsets: whole numbers k: the edge goes to the receiver from pos[sender] + k · cell.
            edge_frames: rotations that carry each edge to y. By default exact half-turns; a given frame differs from
                them by a roll about the edge, which matters only as far as sampled activations do.
            return_hidden: also return ``hidden``: features (atoms, (L+1)², channels) by name.

        Returns:
            ``energy`` (structures,), ``forces`` (atoms, 3), ``stress`` (structures, 9): those that the model has, in
            the units it was trained on. :meth:`predict` gives eV, eV/Å and eV/Å³ with a checkpoint's normalisers.

        Raises:
            ValueError, TypeError: naming the argument that does not fit.
        """
        given = {
            "atomic_numbers": atomic_numbers,
            "pos": pos,
            "cell": cell,
            "batch": batch,
            "pbc": pbc,
            "edge_index": edge_index,
            "cell_offsets": cell_offsets,
            "edge_frames": edge_frames,
        }
        structures = self._gather(data, given)
        if structures.edge_index is None:
            structures = self._with_edges(structures)
        recorded = torch.is_grad_enabled()
        hidden: dict[str, Tensor] = {}
        watched = self._watched(hidden) if return_hidden else nullcontext()
        with torch.enable_grad() if self.gradient_forces else torch.set_grad_enabled(recorded), watched:
            geometry = structures.geometry()
            if self.gradient_forces and not geometry.vectors.requires_grad:
                geometry.vectors.requires_grad_()
            outputs = self._outputs(structures, geometry.vectors)
            if self.gradient_forces:
                outputs |= self._from_gradient(outputs["energy"], structures, geometry, recorded)
        if not recorded:
            outputs = {name: value.detach() for name, value in outputs.items()}
            hidden = {name: value.detach() for name, value in hidden.items()}
        return {**outputs, "hidden": hidden} if return_hidden else outputs

    def predict(self, data: Any = None, **given: Any) -> dict[str, Tensor]:
        """What :meth:`forward` gives for the same arguments, in physical units: scaled with the normalisers of the
        checkpoint and with the energies of its elements added."""
        outputs = self(data, **given)
        structures = self._gather(data, given)
        return self.scales.apply(outputs, structures.atomic_numbers, structures.batch)

    @contextmanager
    def _watched(self, hidden: dict[str, Tensor]) -> Iterator[None]:
        """Record what comes out of the layers, by the names of the reference files."""
        watched: dict[str, nn.Module] = {"edge_degree": self.edge_degree_embedding}
        for index, block in enumerate(self.blocks):
            watched |= {f"block_{index}_attention": block.get_submodule("ga"), f"block_{index}": block}
        watched["final_norm"] = self.norm

        def recorder(name: str):
            return lambda _, __, output: hidden.__setitem__(name, output)

        handles = [module.register_forward_hook(recorder(name)) for name, module in watched.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _gather(self, data: Any, given: dict[str, Any]) -> Structures:
        weight = self.sphere_embedding.weight
        return gather_structures(data, given, weight.shape[0], weight.device)

    def _outputs(self, structures: Structures, vectors: Float[Tensor, "edges 3"]) -> dict[str, Tensor]:
        """Everything that does not come from the gradient."""
        edges, batch = self._edges(structures, vectors), structures.batch
        embedded = self.sphere_embedding(structures.atomic_numbers)
        x = self.edge_degree_embedding(edges, embedded)
        x = torch.cat((x[:, :1] + embedded[:, None], x[:, 1:]), dim=1)
        x = self.norm(self.blocks(x, edges, batch, structures.count))
        per_atom = self._atom_energies(x)
        energy = per_atom.new_zeros(structures.count).index_add(0, batch, per_atom) / self.avg_num_nodes
        outputs = {"energy": energy}
        if self.force_block is not None:
            outputs["forces"] = self.force_block(x, edges).squeeze(-1)
        if self.stress_block is not None:
            outputs["stress"] = self.stress_block.of_structures(x, batch, structures.count)
        return outputs

    @abstractmethod
    def _atom_energies(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, " atoms"]:
        """The energy of each atom, from the last features."""

    def _basis(
        self, distance: Float[Tensor, " edges"], numbers: Int[Tensor, " atoms"], ends: Int[Tensor, "2 edges"]
    ) -> Float[Tensor, "edges basis"]:
        """What the radial networks see of an edge, in the dtype of the weights."""
        return self.distance_expansion(distance).to(self.sphere_embedding.weight.dtype)

    def _edges(self, structures: Structures, vectors: Float[Tensor, "edges 3"]) -> EdgeGraph:
        """Sorted by receiver, with everything that layers need to know of them."""
        ends, frames = structures.ends(), structures.edge_frames
        if frames is not None:
            check_frames(frames, vectors)
        if bool((ends[1, 1:] < ends[1, :-1]).any()):
            order = ends[1].argsort(stable=True)
            ends, vectors = ends[:, order], vectors[order]
            frames = None if frames is None else frames[order]
        dtype = self.sphere_embedding.weight.dtype
        distance, rotation = self.edge_frames(vectors, frames, turned=self._for_rotation(vectors))
        return EdgeGraph(
            senders=ends[0],
            receivers=ends[1],
            receiver_points=ends[1],
            count=structures.atomic_numbers.shape[0],
            rotation=rotation.with_blocks(block.to(dtype) for block in rotation.blocks),
            scalars=self._basis(distance, structures.atomic_numbers, ends),
            envelope=None if self.envelope is None else self.envelope(distance, self.cutoff).to(dtype),
            kinds=structures.atomic_numbers,
        )

    def _for_rotation(self, vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, "edges 3"] | None:
        """The vectors that rotations are found from, where `detach_frames` cuts them out of the graph."""
        return vectors.detach() if self.detach_frames else None

    def _with_edges(self, structures: Structures) -> Structures:
        """The structures with all edges within the cutoff."""
        from equiformer_pytorch.graph.periodic import radius_graph  # what only atomistic users need

        cell = structures.cell if self.use_pbc else None
        edge_index, offsets = radius_graph(
            structures.pos.detach(),
            self.cutoff,
            batch=structures.batch,
            cell=None if cell is None else cell.detach(),
            pbc=structures.pbc if self.use_pbc else None,
            max_neighbors=self.max_neighbors,
        )
        return replace(structures, edge_index=edge_index, cell_offsets=offsets)

    def _from_gradient(
        self,
        energy: Float[Tensor, " structures"],
        structures: Structures,
        geometry: EdgeGeometry,
        create_graph: bool,
    ) -> dict[str, Tensor]:
        r"""Forces −∂E/∂x and the stress :math:`\frac1V ∂E/∂ε`, ε a symmetric strain, from ∂E/∂(edge vector)."""
        (slope,) = torch.autograd.grad(energy.sum(), geometry.vectors, create_graph=create_graph)
        senders, receivers = structures.ends()
        forces = torch.zeros_like(structures.pos).index_add(0, receivers, slope).index_add(0, senders, -slope)
        if not self.gradient_stress:
            return {"forces": forces}
        if structures.cell is None:
            raise ValueError("cell is required: this model gives the stress, which is per volume")
        strained = geometry.strain_derivative(slope)
        of_edge = structures.batch.index_select(0, receivers)
        virial = slope.new_zeros(structures.count, 3, 3).index_add(0, of_edge, strained)
        volume = torch.linalg.det(structures.cell).abs()
        return {"forces": forces, "stress": (virial / volume[:, None, None]).flatten(1)}
