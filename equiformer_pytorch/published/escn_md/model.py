"""eSCN-MD as a potential: from structures through the layers and heads to energy, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.base.potential import HEAVIEST, Potential
from equiformer_pytorch.base.tracing import lasting, lasting_tensors
from equiformer_pytorch.graph.frames import check_frames
from equiformer_pytorch.inputs.geometry import edge_geometry, forces_of, stress_of, stresses_of, with_slope
from equiformer_pytorch.inputs.structures import Structures, gather_structures, volumes
from equiformer_pytorch.published.escn_md.backbone import Backbone, Geometry, Hidden
from equiformer_pytorch.published.escn_md.heads import EnergyHead, OfDatasets, StressHead
from equiformer_pytorch.published.escn_md.outputs import Outputs
from equiformer_pytorch.published.escn_md.system import Systems, atoms_of, inputs_of
from equiformer_pytorch.published.escn_md.tasks import Tasks

# What :meth:`Model.evaluate` hands on of a batch.
GEOMETRY = ("atomic_numbers", "pos", "batch", "cell", "pbc", "edge_index", "cell_offsets")
SYSTEMS = ("charge", "spin", "dataset")
# Of each property the head that gives it, for each known dataset; None where none does.
Chosen = dict[str, list[str | None]]


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
    merged_for: Systems | None = None

    def __init__(self) -> None:
        super().__init__()
        self.tasks = Tasks()
        self._task: str | None = None
        self.inputs = inputs_of(None)

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
        if name is not None and name not in self.known:
            raise ValueError(f"task must be one of {', '.join(self.known) or 'none: there is one kind'}; got {name!r}")
        self._task, self.inputs = name, inputs_of(name)

    def forward(
        self,
        data: Any = None,
        *,
        atomic_numbers: Shaped[Tensor, " atoms"] | None = None,
        pos: Float[Tensor, "atoms 3"] | None = None,
        cell: Float[Tensor, "... 3"] | None = None,
        batch: Int[Tensor, " atoms"] | None = None,
        pbc: Tensor | Sequence[bool] | bool | None = None,
        edge_index: Int[Tensor, "2 edges"] | None = None,
        cell_offsets: Shaped[Tensor, "edges 3"] | None = None,
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
            dataset: of each structure its name, or its place in :attr:`known`; one name for all; :attr:`task` by
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
            outputs = self._run(structures, systems, wanted, self._chosen(), recorded)
        return outputs if recorded else _detached(outputs)

    def official_outputs(self, **call: Any) -> dict[str, Tensor]:
        """Everything under the names that fairchem's model has for it, with zeros (in a merged network NaN) for
        structures of other datasets; for comparison. Takes the tensors of :meth:`forward`. Each head runs alone."""
        recorded, known = torch.is_grad_enabled(), self.known or (None,)
        of_systems = tuple(call.get(name) for name in SYSTEMS)
        given = {name: call.get(name) for name in (*GEOMETRY, "edge_frames")}
        found: dict[str, Tensor] = {}
        with lasting_tensors():
            structures, systems = self._gather(None, given, of_systems)
            for head in self.output_heads:
                mine = [output for output in self.outputs.all if output.head == head]
                chosen: Chosen = {output.property: [head] * len(known) for output in mine}
                gradient = any(output.gradient for output in mine)
                wanted = Wanted(*(named in chosen and (not gradient or r) for named, r in zip(("forces", "stress"), self.regress, strict=True)), False, False)
                raw = self._run(structures, systems, wanted, chosen, recorded)
                for output in mine:
                    if output.property not in raw:
                        continue
                    value = raw[output.property]
                    if output.masked:
                        place = known.index(output.dataset) if output.dataset in known else -1
                        rows = systems.dataset == place
                        rows = structures.restored(rows[structures.batch]) if output.property == "forces" else rows
                        other = 0.0 if self.merged_for is None else torch.nan
                        value = torch.where(rows.view(-1, *(1,) * (value.ndim - 1)), value, other)
                    found[output.name] = value
        return found if recorded else _detached(found)

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
            numbers, batch, count = lasting(structures["atomic_numbers"]), given["batch"], len(outputs["energy"])
            batch = torch.zeros_like(numbers) if batch is None else lasting(batch)
            systems = self._systems(tuple(given[name] for name in SYSTEMS), count)
        with lasting_tensors():
            out = self.tasks.apply(outputs, numbers.long(), batch.long(), systems.dataset, self.known)
        return {name: x.unflatten(-1, (3, 3)) if name in ("stress", "stresses") else x for name, x in out.items()}

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
        """Of the :attr:`task`; zero where there are several datasets and none is the task."""
        found = torch.zeros(HEAVIEST + 1, dtype=torch.float64, device="cpu")
        doubt = self._only is None and bool(self.known)
        table = None if doubt else self.tasks.references(self._only)
        if table is not None:
            known = table[: HEAVIEST + 1]
            found[: len(known)] = known.to(found)
        return found

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
        return not checks.looks_at_values() or bool((volumes(structures.cell) > 0).all())

    def _gather(
        self, data: Any, given: Mapping[str, Any], of_systems: Sequence[Any], *, with_volume: bool = False
    ) -> tuple[Structures, Systems]:
        weight = self.backbone.sphere_embedding.weight

        def check_elements(numbers: Tensor) -> None:
            checks.check_within("atomic_numbers", numbers, weight.shape[0])

        structures = gather_structures(data, given, check_elements, weight.device, with_volume=with_volume)
        of_data = self._of_data(data, structures.count)
        found = [value if value is not None else of_data.get(name) for name, value in zip(SYSTEMS, of_systems, strict=True)]
        return structures, self._systems(found, structures.count)

    def _systems(self, of_systems: Sequence[Any], count: int) -> Systems:
        return Systems.of(*of_systems, self.known, self.task, count, self.backbone.sphere_embedding.weight)

    def _of_data(self, data: Any, count: int) -> dict[str, Any]:
        """What a batch object or ASE atoms say of charge, spin and dataset."""
        if data is None:
            return {}
        each = data if isinstance(data, Sequence) else [data]
        if not all(hasattr(atoms, "info") for atoms in each):
            return {name: getattr(data, name, None) for name in SYSTEMS}
        found = {}
        for name in ("charge", "spin"):
            said = [atoms.info.get(name, self.inputs[name].default) for atoms in each]
            found[name] = torch.tensor(said, dtype=torch.float64).reshape(count)
        return found

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

    def _run(
        self, structures: Structures, systems: Systems, wanted: Wanted, chosen: Chosen, recorded: bool
    ) -> dict[str, Any]:
        """Outputs in the caller's order."""
        structures = structures.with_edges(self.cutoff, self.max_neighbors, self.use_pbc)
        dtype = self.backbone.sphere_embedding.weight.dtype
        geometry = edge_geometry(structures, torch.promote_types(dtype, torch.float32))
        hidden: Hidden | None = {} if wanted.hidden else None
        gradient = {output.property for output in self.outputs.all if output.gradient}
        by_gradient = [flag and name in gradient for name, flag in (("forces", wanted.forces), ("stress", wanted.stress))]

        def outputs_of(vectors: Tensor) -> dict[str, Any]:
            return self._read(structures, systems, vectors, wanted, chosen, gradient, not recorded, hidden)

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
        self._take_means(outputs, structures, systems, chosen)
        if hidden is not None:
            of_atoms = hidden.keys() - {"system_embedding", "expert_coefficients"}
            outputs["hidden"] = {n: structures.restored(x) if n in of_atoms else x for n, x in hidden.items()}
        return outputs

    def _read(
        self,
        structures: Structures,
        systems: Systems,
        vectors: Float[Tensor, "edges 3"],
        wanted: Wanted,
        chosen: Chosen,
        gradient: set[str],
        frozen: bool,
        hidden: Hidden | None,
    ) -> dict[str, Tensor]:
        """Everything that does not come from the gradient; energies are sums over atoms."""
        numbers, batch, count = structures.atomic_numbers, structures.batch, structures.count
        if structures.edge_frames is not None:
            check_frames(structures.edge_frames, vectors)
        atoms = Geometry(numbers, batch, structures.ends(), vectors, structures.edge_frames)
        x = self.backbone(atoms, systems, frozen, hidden)
        outputs: dict[str, Tensor] = {}
        if "energy" in chosen:
            energies = self._of_heads("energy", chosen, x, structures, systems)
            outputs["energy"] = energies.new_zeros(count, dtype=torch.float64).index_add(0, batch, energies.double())
            if wanted.per_atom:
                outputs["energies"] = structures.restored(energies.double())
        if wanted.forces and "forces" in chosen.keys() - gradient:
            outputs["forces"] = structures.restored(self._of_heads("forces", chosen, x, structures, systems))
        if wanted.stress and "stress" in chosen.keys() - gradient:
            outputs["stress"] = self._of_heads("stress", chosen, x, structures, systems)
        return outputs

    def _of_heads(
        self, property: str, chosen: Chosen, x: Tensor, structures: Structures, systems: Systems
    ) -> Float[Tensor, "members *rest"]:
        """What each structure's head gives, of atoms or of structures."""
        heads = chosen[property]
        if None in heads and checks.looks_at_values():
            lacking = torch.tensor([head is None for head in heads], device=systems.dataset.device)
            wrong = ValueError(f"dataset: the model gives no {property} of {[d for d, h in zip(self.known, heads) if h is None]}")
            checks.require(~lacking[systems.dataset].any(), lambda: wrong)
        names = [name for name in dict.fromkeys(heads) if name is not None]
        values = [self._of_head(name, property, x, structures, systems) for name in names]
        found = values[0]
        for name, value in zip(names[1:], values[1:], strict=True):
            mine = torch.tensor([head == name for head in heads], device=x.device)[systems.dataset]
            mine = mine if property == "stress" else mine[structures.batch]
            found = torch.where(mine.view(-1, *(1,) * (value.ndim - 1)), value, found)
        return found

    def _of_head(
        self, name: str, property: str, x: Tensor, structures: Structures, systems: Systems
    ) -> Float[Tensor, "members *rest"]:
        head, expert = self.output_heads[name], None
        if isinstance(head, OfDatasets):
            if head.expert:
                places = torch.tensor([head.expert.get(d, 0) for d in self.known], device=x.device)
                expert = places[systems.dataset][structures.batch]
            head = head.head
        if isinstance(head, EnergyHead):
            return head(x, expert)
        return head(x, expert, structures.batch, structures.count) if isinstance(head, StressHead) else head(x)

    def _take_means(self, outputs: dict[str, Any], structures: Structures, systems: Systems, chosen: Chosen) -> None:
        """Energies per atom of those heads that have them so; forces and stress stay those of the sum, as published."""
        inner = {name: getattr(head, "head", head) for name, head in self.output_heads.items()}
        mean = [name is not None and inner[name].mean for name in chosen.get("energy", ())]
        if not any(mean):
            return
        counts = atoms_of(structures.batch, structures.count, torch.float64)
        counts = torch.where(torch.tensor(mean, device=counts.device)[systems.dataset], counts, 1.0)
        outputs["energy"] = outputs["energy"] / counts
        if "energies" in outputs:
            outputs["energies"] = outputs["energies"] / structures.restored(counts[structures.batch])


def _detached(outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: _detached(x) if isinstance(x, dict) else x.detach() for name, x in outputs.items()}
