"""`EquiformerPotential`: energies of atoms, forces and stress as their exact derivatives, and other targets by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Float64, Int, Integer, Real, Shaped
from torch import Tensor, nn

from equiformer_pytorch.atoms.arguments import ALWAYS, INPUTS, PotentialArguments
from equiformer_pytorch.atoms.embedding import InputEmbeddings
from equiformer_pytorch.atoms.heads import AtomicEnergies, Head
from equiformer_pytorch.atoms.load import FAMILIES
from equiformer_pytorch.base import checks
from equiformer_pytorch.base.arguments import takes
from equiformer_pytorch.base.potential import HEAVIEST, Potential, Target
from equiformer_pytorch.base.saved import read_saved, weights_of
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.graph.edges import Edges
from equiformer_pytorch.inputs.geometry import edge_geometry, forces_of, stress_of, stresses_of, with_slope
from equiformer_pytorch.inputs.layout import Layout
from equiformer_pytorch.inputs.structures import Structures, gather_structures
from equiformer_pytorch.models.equiformer import Equiformer

__all__ = ["EquiformerPotential", "Target"]


class EquiformerPotential(Potential):
    r"""An interatomic potential on top of :class:`Equiformer`,

    .. math:: E = \sum_i \bigl(E^0_{Z_i} + s\,\epsilon(x_i)\bigr), \qquad F_i = -\frac{\partial E}{\partial r_i}, \qquad
        \sigma = \frac1V \frac{\partial E}{\partial \varepsilon},

    where x are the invariants of the atoms, E⁰ reference energies per species and s a scale, both from data
    (:meth:`fit`), and ε a symmetric strain of positions and cell together. The stress is positive under tension, as
    ASE's; the virial is −Vσ.

    Units: eV, Å, eV/Å, eV/Å³. Energies come in float64: sums of reference energies have more digits than float32
    holds. Forces and stress are in the dtype of the positions, targets in that of the weights. Differences of
    positions are taken in float64, all else is computed in the dtype of the weights, at least float32. Forces can be
    differentiated again, for training on them.

    Args:
        species: the elements that may occur, by atomic number or symbol: ``["H", "O"]``.
        cutoff: in Å; energy and forces are continuous as an atom crosses it.
        max_neighbors: keep only so many nearest atoms within the cutoff. Then energies jump where neighbours swap
            places: leave it out for dynamics.
        dim, num_degrees, depth, heads, dim_head, radial_hidden_dim, radial_basis, l2_dist_attention: as in
            :class:`Equiformer`.
        ff_include_htype_norms: as there; on by default, since angles between neighbours become invariants by it.
        reflection_equivariant: energies do not change in a mirror; False lets chiral targets be learned.
        targets: further targets by name.
        inputs: what structures or atoms come with beside their geometry, by name, e.g. ``{"charge": Input(least=-4,
            most=4)}``; see :class:`Input`. Energies are functions of it, and so is all else.

    Raises:
        ValueError, TypeError: for arguments that make no sense, by name.
    """

    family = "EquiformerPotential"

    @takes(PotentialArguments)
    def __init__(self, given: PotentialArguments) -> None:
        super().__init__()
        self.config, self.targets, self.inputs = given.config, given.all_targets, given.all_inputs
        self.cutoff, self.max_neighbors = float(given.cutoff), given.max_neighbors
        self.energies = AtomicEnergies(self.species)
        self.network = Equiformer(
            num_tokens=len(self.species),
            dim=given.dim,
            num_degrees=given.num_degrees,
            depth=given.depth,
            heads=given.heads,
            dim_head=given.dim_head,
            valid_radius=given.cutoff,
            radial_hidden_dim=given.radial_hidden_dim,
            radial_basis=given.radial_basis,
            ff_include_htype_norms=given.ff_include_htype_norms,
            l2_dist_attention=given.l2_dist_attention,
            reflection_equivariant=given.reflection_equivariant,
            embedding_grad_frac=1,
            output_degrees=1 + max([0, *(target.degree for target in self.targets.values())]),
        )
        # Species differ from the start: the small embeddings of Equiformer suit structures where geometry rules.
        nn.init.normal_(cast(nn.Embedding, self.network.point_features.tokens).weight)
        channels = self.network.dim
        self.from_inputs = InputEmbeddings(self.inputs, channels[0])
        self.to_energy = Head(channels[0], channels[0], 1)
        self.to_targets = nn.ModuleDict(
            {name: Head(channels[0], channels[t.degree], t.channels) for name, t in self.targets.items()}
        )

    @property
    def species(self) -> list[int]:
        """The atomic numbers that may occur."""
        return self.config["species"]

    def forward(
        self,
        atomic_numbers: Shaped[Tensor, " atoms"],
        pos: Float[Tensor, "atoms 3"],
        batch: Integer[Tensor, " atoms"] | None = None,
        *,
        cell: Float[Tensor, "... 3"] | None = None,
        pbc: Tensor | Sequence[bool] | bool | None = None,
        edge_index: Integer[Tensor, "2 edges"] | None = None,
        cell_offsets: Real[Tensor, "edges 3"] | None = None,
        forces: bool = True,
        stress: bool = False,
        per_atom: bool = False,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """``energy`` (structures,), ``forces`` (atoms, 3), ``stress`` (structures, 3, 3), and every target.

        Args:
            atomic_numbers: of `species`; whole numbers in a floating dtype will do.
            pos: positions in Å.
            batch: the structure of each atom, in any order; None: all are one.
            cell: cell vectors as rows, in Å, (structures, 3, 3); (3·structures, 3) will do.
            pbc: which cell vectors repeat, (structures, 3) or (3,); None: all of a `cell` that is given.
            edge_index, cell_offsets: (sender, receiver) of each edge, and how many cells the sender is away, where
                the caller knows them; else they are found here.
            forces, stress: whether to compute them; the stress needs a cell.
            per_atom: also ``energies`` (atoms,) and, with the stress, ``stresses`` (atoms, 3, 3): parts of each atom.
                They add up to energy and stress, and nothing else makes them unique.
            inputs: those that the potential was built with, by name, (structures,) or (atoms,); defaults for others.

        Targets of degree 0 are (members,), others (members, 2·degree + 1), with a dimension for `channels` before the
        last where there are several.

        Raises:
            ValueError, TypeError: unknown species, positions that are not finite, cells without volume, wrong shapes.
        """
        given = {
            "atomic_numbers": atomic_numbers,
            "pos": pos,
            "batch": batch,
            "cell": cell,
            "pbc": pbc,
            "edge_index": edge_index,
            "cell_offsets": cell_offsets,
        }
        if edge_index is not None and cell is not None and cell_offsets is None:
            raise ValueError("cell_offsets is missing: of edges in a cell it says how many cells the sender is away")
        recorded = torch.is_grad_enabled()
        with lasting_tensors():
            more: dict[str, Tensor] = {}

            def check_values(numbers: Tensor) -> None:
                self.energies.check(numbers)
                more.update(self.from_inputs.check(inputs) if inputs else {})

            structures = gather_structures(
                None, given, check_values, self.network.device, with_volume=stress, count_edges=True
            )
            structures = structures.with_edges(self.cutoff, self.max_neighbors)
            geometry = edge_geometry(structures, torch.promote_types(self.network.dtype, torch.float32))

            def outputs_of(vectors: Tensor) -> dict[str, Tensor]:
                return self._outputs(structures, vectors, more, per_atom)

            if not (forces or stress):
                out = outputs_of(geometry.vectors)
            else:
                out, slope = with_slope(outputs_of, geometry.vectors, recorded)
                if forces:
                    out["forces"] = forces_of(structures, slope)
                if stress:
                    out["stress"] = stress_of(structures, geometry, slope)
                if stress and per_atom:
                    out["stresses"] = stresses_of(structures, geometry, slope)
        return out if recorded else {name: tensor.detach() for name, tensor in out.items()}

    def _outputs(
        self, structures: Structures, vectors: Float[Tensor, "edges 3"], inputs: Mapping[str, Tensor], per_atom: bool
    ) -> dict[str, Tensor]:
        """Energy and the targets, in the caller's order; with `per_atom` the parts of the energy."""
        species = self.energies.index(structures.atomic_numbers)
        features = self._features(species, structures, vectors, inputs)
        invariants = features[0].squeeze(-1)
        atomic = self.energies(self.to_energy(invariants, features[0]).flatten(), species)
        out = {"energy": _sum(atomic, structures)}
        if per_atom:
            out["energies"] = structures.restored(atomic)
        for name, target in self.targets.items():
            found = self.to_targets[name](invariants, features[target.degree])
            found = structures.restored(found) if target.per == "atom" else _sum(found, structures)
            found = found.squeeze(-1) if target.degree == 0 else found
            out[name] = found.squeeze(1) if target.channels == 1 else found
        return out

    def _features(
        self,
        species: Int[Tensor, " atoms"],
        structures: Structures,
        vectors: Float[Tensor, "edges 3"],
        inputs: Mapping[str, Tensor],
    ) -> dict[int, Float[Tensor, "atoms _channels _orders"]]:
        """What the network finds for each atom, by degree. It looks no farther than edges reach: to it all atoms are
        of one structure, and everything has been checked."""
        network, senders, receivers = self.network, *structures.ends()
        with checks.unchecked_values():
            layout = Layout.of_batch(None, species.shape[0], 1, species.device, sort=False)
            x = network.point_features({0: species}, layout, network.dtype)
            graph = network.edge_graph(Edges(senders, receivers, vectors, None, structures.edges_per_atom), layout)
        if self.inputs:
            x = x + self.from_inputs(inputs, structures)
        x = network.through_layers(x, graph)
        return {degree: part.mT for degree, part in enumerate(network.fiber_out.split(x))}

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
        wanted = {"forces": forces, "stress": stress, "per_atom": per_atom}
        inputs = {name: structures[name] for name in self.inputs if name in structures}
        return dict((self if through is None else through)(**given, **wanted, inputs=inputs))

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(self.species)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset((*ALWAYS, *self.targets))

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(("energies", "stresses"))

    def element_energies(self) -> Float64[Tensor, " elements"]:
        found = torch.zeros(HEAVIEST + 1, dtype=torch.float64, device="cpu")
        found[self.species] = self.energies.references.cpu()
        return found

    def shift_element_energies(self, shift: Float64[Tensor, " elements"]) -> None:
        self.energies.references += shift[self.species].to(self.energies.references.device)

    @torch.no_grad()
    def fit(self, structures: Iterable[Mapping[str, Tensor]]) -> None:
        """Set reference energies and scale from data: the references from atoms that are alone, where there are some,
        else by least squares over compositions; the scale is the root mean square of the force components, or where
        there are no forces that of what the references leave of the energies, per square root of the atoms.

        Args:
            structures: with `atomic_numbers` and, where they have them, `energy` in eV and `forces` in eV/Å, as items
                of :func:`~equiformer_pytorch.atoms.load_structures`.

        Raises:
            ValueError: there is no structure, or one has an element that is not among `species`.
        """
        self.energies.fit(structures)

    @classmethod
    @lasting_tensors()
    def from_checkpoint(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> EquiformerPotential:
        """The potential that :meth:`save` wrote, or that such a dict describes. Loading runs no code of the file's.

        Raises:
            ValueError: where `source` is not such a file.
        """
        content = read_saved(source)
        named = content.get("model")
        if isinstance(named, str) and named in FAMILIES and named != cls.family:
            where = "source" if isinstance(source, Mapping) else os.fspath(source)
            raise ValueError(f"{where} holds an {named}: load_potential loads any")
        state = weights_of(content)
        if "config" not in content:
            held = sorted(map(str, content))
            raise ValueError(f"source must hold config and state_dict, as EquiformerPotential.save writes, got {held}")
        model = cls(**{"ff_include_htype_norms": False, **content["config"]})  # 1.1.0 wrote none and had none
        for floating in [tensor.dtype for name, tensor in state.items() if name.startswith("network.")][:1]:
            model.to(floating)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the configuration: {error}") from error
        return model

    @classmethod
    def recognises(cls, weights: Mapping[str, Tensor]) -> bool:
        return "energies.references" in weights


def _sum(x: Float[Tensor, "atoms *rest"], structures: Structures) -> Float[Tensor, "structures *rest"]:
    """Over the atoms of each structure, in the same order every time."""
    return x.new_zeros(structures.count, *x.shape[1:]).index_put((structures.batch,), x, accumulate=True)
