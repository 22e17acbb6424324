"""eSCN-MD as a potential: from structures through the layers and heads to energy, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Integer, Real, Shaped
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.base.potential import Input, Potential
from equiformer_pytorch.base.tracing import lasting, lasting_tensors, plain
from equiformer_pytorch.graph.frames import check_frames
from equiformer_pytorch.inputs.geometry import edge_geometry, forces_of, stress_of, stresses_of, with_slope
from equiformer_pytorch.inputs.structures import Structures, gather_structures, volumes
from equiformer_pytorch.published.escn_md.backbone import Backbone, Geometry, Hidden
from equiformer_pytorch.published.escn_md.merging import Kind
from equiformer_pytorch.published.escn_md.outputs import Outputs
from equiformer_pytorch.published.escn_md.readout import Batch, Chosen, divisors, read, summed
from equiformer_pytorch.published.escn_md.system import SYSTEMS, Systems, infos_of, inputs_of
from equiformer_pytorch.published.escn_md.tasks import Tasks
from equiformer_pytorch.published.results import by_number, detached, with_matrices

# What :meth:`Model.evaluate` hands on of a batch.
GEOMETRY = ("atomic_numbers", "pos", "batch", "cell", "pbc", "edge_index", "cell_offsets")


class Wanted(NamedTuple):
    """Which outputs are wanted."""

    forces: bool
    stress: bool
    per_atom: bool
    hidden: bool


class Model(Potential, ExactConstants):
    """All of :class:`~equiformer_pytorch.ESCNMD` but its constructor and its files."""

    backbone: Backbone
    output_heads: nn.ModuleDict
    outputs: Outputs
    regress: tuple[bool, bool]
    """Whether forces, and stress, are given where nobody says."""
    tasks: Tasks
    merged_for: Kind | None = None
    """What experts were merged for, the only kind of structure that the model is then for."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = Tasks()

    @property
    def known(self) -> tuple[str, ...]:
        """The datasets that the model tells apart, sorted; none where there is but one kind."""
        embedding = self.backbone.dataset_embedding
        if embedding is not None:
            return embedding.known
        return tuple(sorted(self.outputs.datasets | self.tasks.datasets))

    @property
    def task(self) -> str | None:
        """The dataset that structures are taken to be of unless they say so themselves."""
        return self._task

    @task.setter
    def task(self, name: str | None) -> None:
        if name is not None and self.known and name not in self.known:
            raise ValueError(f"task must be one of {', '.join(self.known)}; got {name!r}")
        self._task, self.config["task"] = name, name

    @property
    def inputs(self) -> Mapping[str, Input]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Charge and spin, by default as of the dataset that structures are taken to be of."""
        return inputs_of(self._only)

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
        charge: Shaped[Tensor, " structures"] | None = None,
        spin: Shaped[Tensor, " structures"] | None = None,
        dataset: Sequence[str] | str | Int[Tensor, " structures"] | None = None,
        return_hidden: bool = False,
        forces: bool | None = None,
        stress: bool | None = None,
        per_atom: bool = False,
    ) -> dict[str, Any]:
        r"""Energy of structures, forces on atoms, stress, each from the head of the structure's dataset.

        Args:
            data: instead of the tensors an object that has them as attributes, ASE atoms, or a list of these, with
                charge and spin in ``info``.
            atomic_numbers: of all atoms of all structures.
            pos: positions in Å, in float32 or wider. Differences are taken in float64, all else is computed in the
                dtype of the weights, at least float32 for geometry.
            cell: cell vectors as rows, Å, (structures, 3, 3).
            batch: structure of each atom, in any order; without it there is one structure.
            pbc: which cell vectors repeat, (structures, 3) or (3,); all where `cell` is given.
            edge_index: [sender, receiver] of each edge, in any order. Without it all pairs within the cutoff, at most
                `max_neighbors` per receiver.
            cell_offsets: whole numbers k: the edge goes to the receiver from pos[sender] + k · cell.
            edge_frames: rotations that carry each edge to y. Gates do not depend on them. Sampled activations ("s2")
                do: they have fairchem's frames without a roll, or, with these, at the constant roll that gives them.
            charge: e, −100 … 100; 0 by default.
            spin: multiplicity, 0 … 100; 0: not given. By default 1 for the dataset omol, 0 for the others.
            dataset: of each structure its name, or its place in `known`; one name for all; `task` by
                default. Left aside where the model knows of no datasets.
            return_hidden: also ``hidden``: states by the names of the reference files.
            forces, stress: False leaves them out; by default as ``regress_forces`` and ``regress_stress`` say, the
                stress only of structures with a volume. True is an error where there is none.
            per_atom: also ``energies`` (atoms,) and, where the stress is a gradient, ``stresses`` (atoms, 9): parts of
                each atom, which add up.

        Returns:
            ``energy`` (structures,) in float64, ``forces`` (atoms, 3), ``stress`` (structures, 9), as the network has
            them; :meth:`predict` and :meth:`evaluate` give eV, eV/Å and eV/Å³.

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
        for name, wish in (("forces", forces), ("stress", stress)):
            if wish and name not in self.gives:
                raise ValueError(f"{name} is wanted, and the model gives none")
        recorded = torch.is_grad_enabled()
        with lasting_tensors():
            structures, systems = self._gather(data, given, (charge, spin, dataset), with_volume=stress is True)
            wanted = Wanted(
                "forces" in self.gives and (self.regress[0] if forces is None else forces),
                "stress" in self.gives and (self._has_stress(structures) if stress is None else stress),
                per_atom,
                return_hidden,
            )
            batched = Batch(structures, systems, self.known)
            outputs = self._run(batched, wanted, self._chosen(), recorded)
        return outputs if recorded else detached(outputs)

    def official_outputs(self, **call: Any) -> dict[str, Tensor]:
        """Everything under the names that fairchem's model has for it, with zeros (in a merged network NaN) for
        structures of other datasets; for comparison. Takes the tensors of :meth:`forward`. Each head runs alone."""
        recorded, known, found = torch.is_grad_enabled(), self.known, {}
        given = {name: call.get(name) for name in (*GEOMETRY, "edge_frames")}
        other = 0.0 if self.merged_for is None else torch.nan
        with lasting_tensors():
            structures, systems = self._gather(None, given, tuple(call.get(name) for name in SYSTEMS))
            batch = Batch(structures, systems, known)
            for head in self.output_heads:
                mine = [output for output in self.outputs.all if output.head == head]
                chosen: Chosen = {output.property: [head] * max(len(known), 1) for output in mine}
                derived = any(output.gradient for output in mine)
                forces, stress = (not derived or regressed for regressed in self.regress)
                wanted = Wanted(forces and "forces" in chosen, stress and "stress" in chosen, False, False)
                raw = self._run(batch, wanted, chosen, recorded)
                for output in mine:
                    value = raw.get(output.property)
                    if value is not None and output.masked:
                        rows = batch.by_dataset([name == output.dataset for name in known], atoms=False)
                        rows = structures.restored(rows[structures.batch]) if output.property == "forces" else rows
                        value = torch.where(rows.view(-1, *(1,) * (value.ndim - 1)), value, other)
                    found |= {} if value is None else {output.name: value}
        return found if recorded else detached(found)

    def predict(self, data: Any = None, **given: Any) -> dict[str, Tensor]:
        """What :meth:`forward` gives for the same arguments in eV, eV/Å and eV/Å³: with the normalisers and the
        energies of elements of each structure's dataset."""
        outputs = self(data, **given)
        with lasting_tensors(), checks.unchecked_values():
            geometry = {name: given.get(name) for name in GEOMETRY}
            structures, systems = self._gather(data, geometry, tuple(given.get(name) for name in SYSTEMS))
            numbers, batch = structures.restored(structures.atomic_numbers), structures.restored(structures.batch)
            return self.tasks.apply(outputs, numbers, batch, systems.dataset, self.known)

    def evaluate(
        self,
        structures: Mapping[str, Any],
        *,
        forces: bool = True,
        stress: bool = False,
        per_atom: bool = False,
        through: Callable[..., Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        given = {name: structures.get(name) for name in (*GEOMETRY, *SYSTEMS)}
        wanted = {"forces": forces and "forces" in self.gives, "stress": stress, "per_atom": per_atom}
        outputs = (self if through is None else through)(**given, **wanted)
        with lasting_tensors(), checks.unchecked_values():
            numbers, batch, count = lasting(structures["atomic_numbers"]), given["batch"], outputs["energy"].shape[0]
            batch = torch.zeros_like(numbers) if batch is None else lasting(batch)
            systems = self._systems(tuple(given[name] for name in SYSTEMS), count)
        with lasting_tensors():
            out = self.tasks.apply(outputs, numbers.long(), batch.long(), systems.dataset, self.known)
        return with_matrices(out)

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(range(1, self.backbone.sphere_embedding.num_embeddings))

    @property
    def gives(self) -> frozenset[str]:
        return self.outputs.gives

    @property
    def parts(self) -> frozenset[str]:
        stresses = any(output.gradient and output.property == "stress" for output in self.outputs.all)
        return frozenset(["energies", *["stresses"] * stresses])

    @property
    def _only(self) -> str | None:
        """The dataset where there is no doubt."""
        return self.known[0] if self.task is None and len(self.known) == 1 else self.task

    def element_energies(self) -> Float64[Tensor, " elements"]:
        """Of the `task`; zero where there are several datasets and none is the task."""
        doubt = self._only is None and bool(self.known)
        return by_number(None if doubt else self.tasks.references(self._only))

    def shift_element_energies(self, shift: Float64[Tensor, " elements"]) -> None:
        if self._only is None and self.known:
            raise ValueError(f"task is needed: the energies of which of {', '.join(self.known)} are to be shifted")
        self.tasks = self.tasks.shifted(self._only, shift.cpu())

    def _has_stress(self, structures: Structures) -> bool:
        """Whether a stress is given where nobody says: if the model is for it and, of gradients, there is a volume."""
        if not self.regress[1]:
            return False
        if "stresses" not in self.parts:
            return True
        if structures.cell is None:
            return False
        return not checks.looks_at_values() or bool((volumes(plain(structures.cell)) > 0).all())

    def _gather(
        self, data: Any, given: Mapping[str, Any], of_systems: Sequence[Any], *, with_volume: bool = False
    ) -> tuple[Structures, Systems]:
        weight = self.backbone.sphere_embedding.weight

        def check_elements(numbers: Tensor) -> None:
            checks.check_within("atomic_numbers", numbers, weight.shape[0])

        structures = gather_structures(data, given, check_elements, weight.device, with_volume=with_volume)
        infos = infos_of(data)
        found = [
            getattr(data, name, None) if value is None and not infos else value
            for name, value in zip(SYSTEMS, of_systems, strict=True)
        ]
        systems = self._systems(found, structures.count, infos)
        if self.merged_for is not None and checks.looks_at_values():
            self.merged_for.check(structures, systems, self.known)
        return structures, systems

    def _systems(self, of_systems: Sequence[Any], count: int, infos: Sequence[Mapping[str, Any]] = ()) -> Systems:
        charge, spin, dataset = of_systems
        like = self.backbone.sphere_embedding.weight
        return Systems.of(charge, spin, dataset, self.known, self.task, count, like, infos)

    def _chosen(self) -> Chosen:
        """The heads that the tasks name, else those that are there."""
        found: Chosen = {}
        for property in self.gives:
            outputs = []
            for dataset in self.known or (None,):
                task = self.tasks.find(property, dataset)
                outputs.append(self.outputs.find(property, dataset, None if task is None else task.name))
            found[property] = [None if output is None else output.head for output in outputs]
        return found

    def _run(self, batch: Batch, wanted: Wanted, chosen: Chosen, recorded: bool) -> dict[str, Any]:
        """Outputs in the caller's order."""
        structures = batch.structures.with_edges(self.cutoff, self.max_neighbors, self.use_pbc, self.strict_neighbors)
        batch = batch._replace(structures=structures)
        dtype = self.backbone.sphere_embedding.weight.dtype
        geometry = edge_geometry(structures, torch.promote_types(dtype, torch.float32))
        hidden: Hidden | None = {} if wanted.hidden else None
        derived = {output.property for output in self.outputs.all if output.gradient}
        forces, stress = wanted.forces and "forces" in derived, wanted.stress and "stress" in derived

        def outputs_of(vectors: Tensor) -> dict[str, Any]:
            return self._read(batch, vectors, wanted, chosen, not recorded, hidden)

        if not (forces or stress):
            outputs = outputs_of(geometry.vectors)
        else:
            outputs, slope = with_slope(outputs_of, geometry.vectors, recorded)
            if forces:
                outputs["forces"] = forces_of(structures, slope)
            if stress:
                outputs["stress"] = stress_of(structures, geometry, slope).flatten(1)
            if stress and wanted.per_atom:
                outputs["stresses"] = stresses_of(structures, geometry, slope).flatten(1)
        by = divisors(self.output_heads, chosen, batch)
        if by is not None:
            outputs["energy"] = outputs["energy"] / by
            if wanted.per_atom:
                outputs["energies"] = outputs["energies"] / structures.restored(by[structures.batch])
        if hidden is not None:
            of_atoms = hidden.keys() - {"system_embedding", "expert_coefficients"}
            outputs["hidden"] = {n: structures.restored(x) if n in of_atoms else x for n, x in hidden.items()}
        return outputs

    def _read(
        self,
        batch: Batch,
        vectors: Float[Tensor, "edges 3"],
        wanted: Wanted,
        chosen: Chosen,
        frozen: bool,
        hidden: Hidden | None,
    ) -> dict[str, Tensor]:
        """Everything that does not come from the gradient; energies are sums over atoms."""
        structures, derived = batch.structures, {o.property for o in self.outputs.all if o.gradient}
        if structures.edge_frames is not None:
            check_frames(structures.edge_frames, vectors)
        atoms = Geometry(
            structures.atomic_numbers, structures.batch, structures.ends(), vectors, structures.edge_frames
        )
        x = self.backbone(atoms, batch.systems, frozen, hidden)
        outputs: dict[str, Tensor] = {}
        if "energy" in chosen:
            energies = read("energy", self.output_heads, chosen, x, batch)
            outputs["energy"] = summed(energies, batch)
            if wanted.per_atom:
                outputs["energies"] = structures.restored(energies.double())
        direct = chosen.keys() - derived
        if wanted.forces and "forces" in direct:
            outputs["forces"] = structures.restored(read("forces", self.output_heads, chosen, x, batch))
        if wanted.stress and "stress" in direct:
            outputs["stress"] = read("stress", self.output_heads, chosen, x, batch)
        return outputs
