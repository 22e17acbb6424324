"""`EquiformerCalculator`: a potential of any kind, or a committee of several, as an ASE calculator."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.atoms.embedding import read_inputs
from equiformer_pytorch.atoms.load import load_potential
from equiformer_pytorch.atoms.second_derivatives import hessian
from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.graph.periodic import radius_graph

# What energies depend on, where it is not one of these, whether or not a model takes it.
NEUTRAL = {"charge": (0,), "spin": (0, 1)}
# What a committee says beside its mean: the standard deviation over its members, of this name's beginning.
STD = "_std"

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError('the ASE calculator needs ase: pip install "equiformer-pytorch[atoms]"') from error

Source = Potential | str | os.PathLike[str] | Mapping[str, Any]


class EquiformerCalculator(Calculator):
    """Energy (eV), forces (eV/Å), stress (eV/Å³), parts of energy and stress of each atom (get_potential_energies,
    get_stresses) and the targets of a potential, for ASE.

    Of a committee, several potentials that were trained apart: their mean, and beside everything that all give its
    standard deviation, in ``results["energy_std"]``, ``results["forces_std"]``, ….

    What a potential takes beside species, positions and cell, its `inputs`, is looked for in ``atoms.info`` and
    ``atoms.arrays`` by name. A charge or spin there that it does not take is said so once.

    Neighbours within cutoff + `skin` are found once and kept until an atom has moved by half the skin, or the cell,
    the species or the periodicity changed. The numbers are the same: whatever is beyond the cutoff weighs nothing.

    Args:
        potential: of any kind, which is copied and stays as it is; or a file of one, as
            :func:`~equiformer_pytorch.atoms.load_potential` takes it; or a sequence of these.
        skin: in Å; 0 finds neighbours at every step. Models with a largest number of neighbours always do.
        device: where to compute.
        dtype: of the weights, in which all is computed but differences of positions, which are float64; None keeps
            that of the weights. float64 for dynamics that conserve energy.
    """

    def __init__(
        self,
        potential: Source | Sequence[Source],
        *,
        skin: float = 0.5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if skin < 0:
            raise ValueError(f"skin must be at least 0, got {skin}")
        one = isinstance(potential, Potential | str | os.PathLike | Mapping)
        sources: list[Source] = [potential] if one else list(potential)
        if not sources:
            raise ValueError("potential is empty: a committee needs at least one member")
        # Our own copies: frozen weights cost no work in the backward pass that forces are.
        owned = [_own(source).to(device=device, dtype=dtype) for source in sources]
        self.members = [member.eval().requires_grad_(False) for member in owned]
        self.potential, self.device, self.skin = self.members[0], torch.device(device), float(skin)
        self.targets = {}
        for name in frozenset.intersection(*(frozenset(member.targets) for member in self.members)):
            self.targets[name] = self.potential.targets[name]
            if any(member.targets[name] != self.targets[name] for member in self.members):
                raise ValueError(f"potential: the members of the committee mean different things by {name!r}")
        self.gives = frozenset.intersection(*(member.gives | member.parts for member in self.members))
        named = [*sorted(self.gives), "free_energy"]
        self.implemented_properties = named + [name + STD for name in named if len(self.members) > 1]
        self.searches = 0
        self._warned = False
        self._kept: dict[tuple[float, int | None, bool], tuple[Atoms, Tensor, Tensor]] = {}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills `results`; ASE calls this."""
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("atoms is missing: there is nothing to calculate")
        self._warn_of_what_is_ignored(atoms)
        wanted = {name.removesuffix(STD) for name in properties}
        forces = not wanted.isdisjoint(("forces", "stress", "stresses"))
        stress = forces and "stress" in self.gives and bool(atoms.cell.rank == 3)  # it is per volume
        per_atom = not wanted.isdisjoint(("energies", "stresses"))
        found = []
        for member in self.members:
            with torch.no_grad():
                out = member.evaluate(self._structure(member, atoms), forces=forces, stress=stress, per_atom=per_atom)
            found.append({name: self._as_ase_has_it(name, x) for name, x in out.items() if name in self.gives})
        common = set.intersection(*(set(out) for out in found))
        of_members = {name: np.stack([out[name] for out in found]) for name in common}
        of_members["free_energy"] = of_members["energy"]
        self.results = {name: _number(x.mean(0)) for name, x in of_members.items()}
        if len(found) > 1:
            self.results |= {name + STD: _number(x.std(0, ddof=1)) for name, x in of_members.items()}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last call, for ASE, which does not look at what only our models take."""
        self._warn_of_what_is_ignored(atoms)
        changed, before = super().check_state(atoms, tol), self.atoms
        if before is None:
            return changed
        inputs = {name: each for member in self.members for name, each in member.inputs.items()}
        old, new = read_inputs(before, inputs), read_inputs(atoms, inputs)
        return changed + [name for name in sorted(inputs) if not torch.equal(old[name], new[name])]

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy (atoms, 3, atoms, 3) in eV/Å², exact, as ``ase.vibrations.VibrationsData``
        takes them."""
        found = [hessian(member, self._structure(member, atoms)) for member in self.members]
        return torch.stack(found).mean(0).numpy()

    def _warn_of_what_is_ignored(self, atoms: Atoms) -> None:
        """Of a charge or spin that not all members take; once."""
        for name, neutral in NEUTRAL.items():
            value = atoms.info.get(name)
            taken = all(name in member.inputs for member in self.members)
            if value is not None and value not in neutral and not taken and not self._warned:
                warnings.warn(f"atoms.info has {name} = {value}, which the potential does not take", stacklevel=2)
                self._warned = True

    def _as_ase_has_it(self, name: str, x: Tensor) -> np.ndarray:
        """Of one structure, without its dimension; stress as (xx, yy, zz, yz, xz, xy)."""
        found = x.double().cpu().numpy()
        of_structure = name in ("energy", "stress") or (name in self.targets and self.targets[name].per == "structure")
        found = np.asarray(found[0]) if of_structure else found
        return full_3x3_to_voigt_6_stress(found) if name in ("stress", "stresses") else found

    def _structure(self, member: Potential, atoms: Atoms) -> dict[str, Tensor]:
        """A batch of one, with neighbours that are kept."""
        edge_index, cell_offsets = self._neighbours(member, atoms)
        inputs = {name: x.reshape(-1).to(self.device) for name, x in read_inputs(atoms, member.inputs).items()}
        return {
            **inputs,
            "atomic_numbers": torch.as_tensor(atoms.numbers, dtype=torch.long, device=self.device),
            "pos": torch.as_tensor(atoms.positions, dtype=torch.float64, device=self.device),
            "cell": torch.as_tensor(atoms.cell.array, dtype=torch.float64, device=self.device)[None],
            "edge_index": edge_index,
            "cell_offsets": cell_offsets,
        }

    def _neighbours(self, member: Potential, atoms: Atoms) -> tuple[Tensor, Tensor]:
        """Within cutoff + skin; those of before, where they still hold all that are within the cutoff."""
        kind = (member.cutoff, member.max_neighbors, member.use_pbc)
        skin = self.skin if member.max_neighbors is None else 0.0
        if kind in self._kept:
            before, edge_index, cell_offsets = self._kept[kind]
            same = (
                np.array_equal(before.numbers, atoms.numbers)
                and np.array_equal(before.pbc, atoms.pbc)
                and np.array_equal(before.cell.array, atoms.cell.array)
            )
            if same:
                moved = np.linalg.norm(atoms.positions - before.positions, axis=1).max(initial=0.0)
                if moved < skin / 2 or moved == 0:
                    return edge_index, cell_offsets
        edge_index, cell_offsets = radius_graph(
            torch.as_tensor(atoms.positions, device="cpu"),
            member.cutoff + skin,
            cell=torch.as_tensor(atoms.cell.array, device="cpu")[None],
            pbc=torch.as_tensor(atoms.pbc & member.use_pbc, device="cpu")[None],
            max_neighbors=member.max_neighbors,
        )
        self.searches += 1
        self._kept[kind] = (atoms.copy(), edge_index.to(self.device), cell_offsets.to(self.device))
        return self._kept[kind][1:]


@lasting_tensors()
def _own(source: Source) -> Potential:
    """A copy of a potential, or that of a file."""
    return copy.deepcopy(source) if isinstance(source, Potential) else load_potential(source)


def _number(x: Any) -> Any:
    """A float instead of an array of one."""
    return float(x) if x.ndim == 0 else x
