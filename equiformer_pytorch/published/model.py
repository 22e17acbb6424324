"""What EquiformerV2 and EquiformerV3 share: from structures through the layers to energy, forces and stress."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Integer, Real, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting, lasting_tensors
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import EdgeFrames, check_frames, edge_lengths
from equiformer_pytorch.inputs.geometry import edge_geometry, forces_of, stress_of, stresses_of, with_slope
from equiformer_pytorch.inputs.structures import Structures, gather_structures
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.legacy.modules import adopt, is_old
from equiformer_pytorch.published.attention import GraphAttention
from equiformer_pytorch.published.block import Block
from equiformer_pytorch.published.edge_stress import EdgeStressHead
from equiformer_pytorch.published.embedding import EdgeDegreeEmbedding
from equiformer_pytorch.published.heads import StressHead
from equiformer_pytorch.published.radial import GaussianSmearing
from equiformer_pytorch.published.results import by_number, detached, with_matrices
from equiformer_pytorch.published.scales import Scales


class Stack(nn.ModuleList):
    """The layers, one after the other; those marked in `recomputed` keep no activations for the backward pass."""

    def __init__(self, blocks: list[Block], recomputed: list[bool]) -> None:
        super().__init__(blocks)
        self.recomputed = recomputed

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        edges: EdgeGraph,
        batch: Int[Tensor, " atoms"],
        structures: int,
    ) -> Float[Tensor, "atoms components channels"]:
        for block, recomputed in zip(self, self.recomputed, strict=True):
            if recomputed and torch.is_grad_enabled():
                x = checkpoint(block, x, edges, batch, structures, use_reentrant=False)
            else:
                x = block(x, edges, batch, structures)
        return x


# What :meth:`PublishedModel.evaluate` hands on of a batch.
INPUTS = ("atomic_numbers", "pos", "batch", "cell", "pbc", "edge_index", "cell_offsets")


class Wanted(NamedTuple):
    """Which outputs are wanted."""

    forces: bool
    stress: bool
    per_atom: bool
    hidden: bool


class PublishedModel(Potential, ExactConstants):
    """The common part of the published models. Parameters have the names and shapes of the published files."""

    sphere_embedding: nn.Embedding
    distance_expansion: GaussianSmearing
    envelope: Envelope | None
    edge_frame: EdgeFrames
    edge_degree_embedding: EdgeDegreeEmbedding
    blocks: Stack
    norm: nn.Module
    energy_block: nn.Module
    force_block: GraphAttention | None
    stress_block: StressHead | EdgeStressHead | None

    avg_num_nodes: float
    gradient_forces: bool = False
    gradient_stress: bool = False
    detach_frames: bool

    def __init__(self) -> None:
        super().__init__()
        self.scales = Scales()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if is_old(state, "edge_frame"):
            adopt(self, state, state["config"])
            self.scales = state["scales"]
        else:
            super().__setstate__(state)

    def forward(
        self,
        data: Any = None,
        *,
        atomic_numbers: Shaped[Tensor, " atoms"] | None = None,
        pos: Float[Tensor, "atoms 3"] | None = None,
        cell: Float[Tensor, "... 3"] | None = None,
        batch: Integer[Tensor, " atoms"] | None = None,
        pbc: Tensor | Sequence[bool] | bool | None = None,
        edge_index: Integer[Tensor, "2 edges"] | None = None,
        cell_offsets: Real[Tensor, "edges 3"] | None = None,
        edge_frames: Float[Tensor, "edges 3 3"] | None = None,
        return_hidden: bool = False,
        forces: bool = True,
        stress: bool | None = None,
        per_atom: bool = False,
    ) -> dict[str, Any]:
        r"""Energy of structures, forces on atoms, stress.

        Args:
            data: instead of the tensors an object that has them as attributes (as batches of PyTorch Geometric do), ASE
                atoms, or a list of these. Integers and lengths as below.
            atomic_numbers: of all atoms of all structures; whole numbers in a floating dtype will do.
            pos: positions in Å, in float32 or wider. Differences are taken in float64, all else is computed in the
                dtype of the weights.
            cell: cell vectors as rows, Å, (structures, 3, 3); (3·structures, 3) will do.
            batch: structure of each atom, in any order; without it there is one structure.
            pbc: which cell vectors repeat, (structures, 3) or (3,); all where `cell` is given. Only needed when edges
                are to be found.
            edge_index: [sender, receiver] of each edge, in any order. Without it all pairs within the cutoff, at most
                `max_neighbors` per receiver.
            cell_offsets: whole numbers k: the edge goes to the receiver from pos[sender] + k · cell.
            edge_frames: rotations that carry each edge to y. By default exact half-turns; a given frame differs from
                them by a roll about the edge, which matters only as far as sampled activations do.
            return_hidden: also return ``hidden``: features (atoms, (L+1)², channels) by name.
            forces: False leaves them out.
            stress: False leaves it out; True is an error where there is none, or no volume.
            per_atom: also ``energies`` (atoms,) and, where the stress is a gradient, ``stresses`` (atoms, 9): parts of
                each atom. They add up to energy and stress, and nothing else makes them unique.

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
        if stress and "stress" not in self.gives:
            raise ValueError("stress is wanted, and the model gives none")
        recorded = torch.is_grad_enabled()
        with lasting_tensors():
            structures = self._gather(data, given, with_volume=stress is True)
            wanted = Wanted(forces, stress is not False, per_atom, return_hidden)
            outputs = self._of_structures(structures, wanted, recorded)
        return outputs if recorded else detached(outputs)

    def predict(self, data: Any = None, **given: Any) -> dict[str, Tensor]:
        """What :meth:`forward` gives for the same arguments, in physical units: scaled with the normalisers of the
        checkpoint and with the energies of its elements added."""
        outputs = self(data, **given)
        with lasting_tensors(), checks.unchecked_values():
            structures = self._gather(data, {name: given.get(name) for name in INPUTS})
            numbers, batch = structures.restored(structures.atomic_numbers), structures.restored(structures.batch)
            return self.scales.apply(outputs, numbers, batch)

    def evaluate(
        self,
        structures: Mapping[str, Any],
        *,
        forces: bool = True,
        stress: bool = False,
        per_atom: bool = False,
        through: Callable[..., Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        given = {name: structures.get(name) for name in INPUTS}
        outputs = (self if through is None else through)(**given, forces=forces, stress=stress, per_atom=per_atom)
        with lasting_tensors():
            numbers, batch = lasting(structures["atomic_numbers"]), given["batch"]
            batch = torch.zeros_like(numbers) if batch is None else lasting(batch)
            out = self.scales.apply(outputs, numbers.long(), batch.long())
        return with_matrices(out)

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(range(1, self.sphere_embedding.num_embeddings))

    @property
    def gives(self) -> frozenset[str]:
        of_forces = self.force_block is not None or self.gradient_forces
        of_stress = self.stress_block is not None or self.gradient_stress
        return frozenset(["energy", *["forces"] * of_forces, *["stress"] * of_stress])

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(["energies", *["stresses"] * self.gradient_stress])

    def element_energies(self) -> Float64[Tensor, " elements"]:
        return by_number(self.scales.element_energies)

    def shift_element_energies(self, shift: Float64[Tensor, " elements"]) -> None:
        self.scales = self.scales.shifted(shift.cpu())

    def leave_out_stress_head(self) -> None:
        if self.stress_block is not None:
            self.stress_block, self.config["regress_stress"] = None, False

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

    def _gather(self, data: Any, given: Mapping[str, Any], *, with_volume: bool = False) -> Structures:
        count, device = self.sphere_embedding.num_embeddings, self.sphere_embedding.weight.device

        def check_elements(numbers: Tensor) -> None:
            checks.check_within("atomic_numbers", numbers, count)

        return gather_structures(data, given, check_elements, device, with_volume=with_volume)

    def _of_structures(self, structures: Structures, wanted: Wanted, recorded: bool) -> dict[str, Any]:
        """Outputs in the caller's order; those wanted that the model has."""
        structures = structures.with_edges(self.cutoff, self.max_neighbors, self.use_pbc, self.strict_neighbors)
        geometry = edge_geometry(structures, torch.promote_types(self.sphere_embedding.weight.dtype, torch.float32))

        def outputs_of(vectors: Tensor) -> dict[str, Any]:
            watched: dict[str, Tensor] = {}
            with self._watched(watched) if wanted.hidden else nullcontext():
                outputs = self._outputs(structures, vectors, wanted)
            return {**outputs, "hidden": watched} if wanted.hidden else outputs

        by_gradient = (wanted.forces and self.gradient_forces, wanted.stress and self.gradient_stress)
        if not any(by_gradient):
            outputs = outputs_of(geometry.vectors)
        else:
            outputs, slope = with_slope(outputs_of, geometry.vectors, recorded)
            if by_gradient[0]:
                outputs["forces"] = forces_of(structures, slope)
            if by_gradient[1]:
                outputs["stress"] = stress_of(structures, geometry, slope).flatten(1)
            if by_gradient[1] and wanted.per_atom:
                outputs["stresses"] = stresses_of(structures, geometry, slope).flatten(1)
        if wanted.hidden:
            outputs["hidden"] = {name: structures.restored(value) for name, value in outputs["hidden"].items()}
        return outputs

    def _outputs(self, structures: Structures, vectors: Float[Tensor, "edges 3"], wanted: Wanted) -> dict[str, Tensor]:
        """Everything that does not come from the gradient."""
        edges, batch = self._edges(structures, vectors), structures.batch
        embedded = self.sphere_embedding(structures.atomic_numbers)
        x = self.edge_degree_embedding(edges, embedded)
        x = torch.cat((x[:, :1] + embedded[:, None], x[:, 1:]), dim=1)
        x = self.norm(self.blocks(x, edges, batch, structures.count))
        per_atom = self._atom_energies(x)
        energy = per_atom.new_zeros(structures.count).index_add(0, batch, per_atom) / self.avg_num_nodes
        outputs = {"energy": energy}
        if wanted.per_atom:
            outputs["energies"] = structures.restored(per_atom) / self.avg_num_nodes
        if self.force_block is not None and wanted.forces:
            outputs["forces"] = structures.restored(self.force_block(x, edges).squeeze(-1))
        if self.stress_block is None or not wanted.stress:
            return outputs
        if isinstance(self.stress_block, EdgeStressHead):
            distance, *_ = edge_lengths(vectors.detach() if self.detach_frames else vectors)
            outputs["stress"] = self.stress_block(x, edges, distance, batch, structures.count)
        else:
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
        """Everything that layers need to know of the edges, which come sorted by receiver."""
        ends, frames = structures.ends(), structures.edge_frames
        if frames is not None:
            check_frames(frames, vectors)
        dtype = self.sphere_embedding.weight.dtype
        distance, rotation = self.edge_frame(vectors, frames, turned=self._for_rotation(vectors))
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
