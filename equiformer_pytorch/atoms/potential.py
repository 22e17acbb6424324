"""`EquiformerPotential`: energies of atoms, forces and stress as their exact derivatives, and other targets by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.atoms.heads import AtomicEnergies, Head
from equiformer_pytorch.base import checks
from equiformer_pytorch.base.saved import read_saved, write_saved
from equiformer_pytorch.graph.periodic import radius_graph
from equiformer_pytorch.models.equiformer import Equiformer


@dataclass(frozen=True)
class Target:
    """Something to predict beside energy, forces and stress: `channels` features of one degree.

    Per atom, or per structure as the sum over its atoms. Degree 1 is (x, y, z), e.g. a dipole moment:
    ``Target(1, "structure")``. With `reflection_equivariant` a target has parity (−1)^degree.
    """

    degree: int
    per: Literal["atom", "structure"] = "atom"
    channels: int = 1


class EquiformerPotential(nn.Module):
    r"""An interatomic potential on top of :class:`Equiformer`,

    .. math:: E = \sum_i \bigl(E^0_{Z_i} + s\,\epsilon(x_i)\bigr), \qquad F_i = -\frac{\partial E}{\partial r_i}, \qquad
        \sigma = \frac1V \frac{\partial E}{\partial \varepsilon},

    where x are the invariants of the atoms, E⁰ reference energies per species and s a scale, both from data
    (:meth:`fit`), and ε a symmetric strain of positions and cell together. The stress is positive under tension, as
    ASE's; the virial is −Vσ.

    Units: eV, Å, eV/Å, eV/Å³. Energies come in float64: sums of reference energies have more digits than float32
    holds. All else is in the dtype of the positions. Forces can be differentiated again, for training on them.

    Args:
        species: the atomic numbers that may occur.
        cutoff: in Å; energy and forces are continuous as an atom crosses it.
        max_neighbors: keep only so many nearest atoms within the cutoff. Then energies jump where neighbours swap
            places: leave it out for dynamics.
        dim, num_degrees, depth, heads, dim_head, radial_hidden_dim, l2_dist_attention: as in :class:`Equiformer`.
        ff_include_htype_norms: as there; on by default, since angles between neighbours become invariants by it.
        reflection_equivariant: energies do not change in a mirror; False lets chiral targets be learned.
        targets: further targets by name.

    Raises:
        ValueError, TypeError: for arguments that make no sense, by name.
    """

    def __init__(
        self,
        *,
        species: Sequence[int],
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        dim: int | Sequence[int] = 64,
        num_degrees: int = 4,
        depth: int = 2,
        heads: int | Sequence[int] = 4,
        dim_head: int | Sequence[int] = 16,
        radial_hidden_dim: int = 64,
        ff_include_htype_norms: bool = True,
        l2_dist_attention: bool = True,
        reflection_equivariant: bool = True,
        targets: Mapping[str, Target | Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "species": [int(number) for number in species],
            "cutoff": float(cutoff),
            "max_neighbors": max_neighbors,
            "dim": dim if isinstance(dim, int) else list(dim),
            "num_degrees": num_degrees,
            "depth": depth,
            "heads": heads if isinstance(heads, int) else list(heads),
            "dim_head": dim_head if isinstance(dim_head, int) else list(dim_head),
            "radial_hidden_dim": radial_hidden_dim,
            "ff_include_htype_norms": ff_include_htype_norms,
            "l2_dist_attention": l2_dist_attention,
            "reflection_equivariant": reflection_equivariant,
        }
        checks.check_number("cutoff", cutoff, 0, whole=False, exclusive=True)
        if max_neighbors is not None:
            checks.check_number("max_neighbors", max_neighbors, 1)
        self.targets = {
            name: target if isinstance(target, Target) else Target(**target) for name, target in (targets or {}).items()
        }
        for name, target in self.targets.items():
            if name in ("energy", "forces", "stress"):
                raise ValueError(f"targets: {name} is always there")
            if not 0 <= target.degree < num_degrees:
                raise ValueError(
                    f"targets[{name!r}] has degree {target.degree}, the model has num_degrees = {num_degrees}"
                )
            if target.per not in ("atom", "structure"):
                raise ValueError(f"targets[{name!r}] must be per 'atom' or 'structure', got {target.per!r}")
        self.config["targets"] = {name: asdict(target) for name, target in self.targets.items()}

        self.cutoff, self.max_neighbors = float(cutoff), max_neighbors
        self.energies = AtomicEnergies(self.config["species"])
        self.network = Equiformer(
            num_tokens=len(self.config["species"]),
            dim=dim,
            num_degrees=num_degrees,
            depth=depth,
            heads=heads,
            dim_head=dim_head,
            valid_radius=cutoff,
            radial_hidden_dim=radial_hidden_dim,
            ff_include_htype_norms=ff_include_htype_norms,
            l2_dist_attention=l2_dist_attention,
            reflection_equivariant=reflection_equivariant,
            embedding_grad_frac=1,
            output_degrees=1 + max([0, *(target.degree for target in self.targets.values())]),
        )
        # Species differ from the start: the small embeddings of Equiformer suit structures where geometry rules.
        nn.init.normal_(cast(nn.Embedding, self.network.point_features.tokens).weight)
        channels = self.network.dim
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
        atomic_numbers: Int[Tensor, " atoms"],
        pos: Float[Tensor, "atoms 3"],
        batch: Int[Tensor, " atoms"] | None = None,
        *,
        cell: Float[Tensor, "structures 3 3"] | None = None,
        pbc: Tensor | None = None,
        edge_index: Int[Tensor, "2 edges"] | None = None,
        cell_offsets: Int[Tensor, "edges 3"] | None = None,
        forces: bool = True,
        stress: bool = False,
    ) -> dict[str, Tensor]:
        """``energy`` (structures,), ``forces`` (atoms, 3), ``stress`` (structures, 3, 3), and every target.

        Args:
            atomic_numbers: of `species`.
            pos: positions in Å.
            batch: the structure of each atom; None: all are one.
            cell: cell vectors as rows, in Å; for one structure (3, 3) will do.
            pbc: which cell vectors repeat, (structures, 3) or (3,); None: all of a `cell` that is given.
            edge_index, cell_offsets: (sender, receiver) of each edge, and how many cells the sender is away, where
                the caller knows them; else they are found here.
            forces, stress: whether to compute them; the stress needs a cell.

        Targets of degree 0 are (members,), others (members, 2·degree + 1), with a dimension for `channels` before the
        last where there are several.

        Raises:
            ValueError, TypeError: unknown species, positions that are not finite, cells without volume, wrong shapes.
        """
        species = self.energies.index(checks.check_integers("atomic_numbers", atomic_numbers, (None,), "(atoms,)"))
        checks.check_shape("pos", checks.check_tensor("pos", pos), (species.shape[0], 3), "(atoms, 3)")
        checks.check_floating("pos", pos)
        checks.check_finite("pos", pos, "atom")
        if cell is not None:
            cell = checks.check_cell(cell).to(pos.dtype)
            checks.check_finite("cell", cell, "structure")
            if stress and bool((torch.linalg.det(cell) == 0).any()):
                raise ValueError(f"cell must have a volume in every structure for the stress, got {cell.tolist()}")
        elif stress:
            raise ValueError("stress needs cell")
        batch, structures = _structures(batch, cell, pos)
        if edge_index is None:
            edge_index, cell_offsets = radius_graph(
                pos.detach(),
                self.cutoff,
                batch=batch,
                cell=None if cell is None else cell.detach(),
                pbc=pbc,
                max_neighbors=self.max_neighbors,
            )
        if cell is None and cell_offsets is not None:
            if bool(cell_offsets.any()):
                raise ValueError("cell is missing: cell_offsets are not all zero")
            cell_offsets = None
        differentiate_again = torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiate_again or forces or stress):
            wanted = []
            if forces:
                pos = pos if pos.requires_grad else pos.detach().requires_grad_()
                wanted.append(pos)
            moved, moved_cell = pos, cell
            if stress and cell is not None:
                strain = torch.zeros_like(cell).requires_grad_()
                wanted.append(strain)
                symmetric = (strain + strain.mT) / 2
                moved = pos + (pos[:, None] @ symmetric[batch]).squeeze(1)
                moved_cell = cell + cell @ symmetric
            features = self.network(
                species,
                moved,
                batch=batch,
                edge_index=edge_index,
                cell=moved_cell,
                cell_offsets=cell_offsets,
                return_all_degrees=True,
            )
            out = self._read_out(features, species, batch, structures)
            if wanted:
                derivatives = torch.autograd.grad(
                    out["energy"].sum(), wanted, create_graph=differentiate_again, materialize_grads=True
                )
                if forces:
                    out["forces"] = -derivatives[0]
                if stress and cell is not None:
                    out["stress"] = derivatives[-1] / torch.linalg.det(cell).abs()[:, None, None]
        return out if differentiate_again else {name: tensor.detach() for name, tensor in out.items()}

    def _read_out(
        self, features: dict[int, Tensor], species: Tensor, batch: Tensor, structures: int
    ) -> dict[str, Tensor]:
        """Energy and the targets, from the features (atoms, channels, orders) of each degree."""
        invariants = features[0].squeeze(-1)
        atomic = self.energies(self.to_energy(invariants, features[0]).flatten(), species)
        out = {"energy": _sum(atomic, batch, structures)}
        for name, target in self.targets.items():
            found = self.to_targets[name](invariants, features[target.degree])
            found = found if target.per == "atom" else _sum(found, batch, structures)
            found = found.squeeze(-1) if target.degree == 0 else found
            out[name] = found.squeeze(1) if target.channels == 1 else found
        return out

    @torch.no_grad()
    def fit(self, structures: Iterable[Mapping[str, Tensor]]) -> None:
        """Set the reference energies and the scale from structures with `atomic_numbers`, `energy` and, for the scale,
        `forces`: least squares over compositions, and the root mean square of the force components."""
        self.energies.fit(structures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write configuration and weights to a file for :meth:`from_checkpoint`; whole, or the old file stays."""
        write_saved({"config": self.config, "state_dict": self.state_dict()}, path)

    @classmethod
    def from_checkpoint(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> EquiformerPotential:
        """The potential that :meth:`save` wrote, or that such a dict describes. Loading runs no code of the file's.

        Raises:
            ValueError: where `source` is not such a file.
        """
        content = read_saved(source)
        if not {"config", "state_dict"} <= content.keys():
            held = sorted(map(str, content))
            raise ValueError(f"source must hold config and state_dict, as EquiformerPotential.save writes, got {held}")
        model = cls(**{"ff_include_htype_norms": False, **content["config"]})  # 1.1.0 wrote none and had none
        state = content["state_dict"]
        floating = [tensor.dtype for name, tensor in state.items() if name.startswith("network.")]
        model.to(floating[0])
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the configuration: {error}") from error
        return model


def _structures(batch: Tensor | None, cell: Tensor | None, pos: Tensor) -> tuple[Int[Tensor, " atoms"], int]:
    """The structure of each atom, and how many there are."""
    given = None if cell is None else cell.shape[0]
    if batch is None:
        if given not in (None, 1):
            raise ValueError(f"batch is missing: cell has {given} structures")
        return torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device), 1
    return checks.check_batch(batch, pos.shape[0], given)


def _sum(x: Float[Tensor, "atoms ..."], batch: Int[Tensor, " atoms"], structures: int) -> Tensor:
    """Over the atoms of each structure, in the same order every time."""
    return x.new_zeros(structures, *x.shape[1:]).index_put((batch,), x, accumulate=True)
