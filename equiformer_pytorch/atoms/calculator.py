"""`EquiformerCalculator`: a potential of any kind, or a committee of several, as an ASE calculator."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.atoms.committee import STD, mean_and_spread
from equiformer_pytorch.atoms.embedding import ignored_inputs, read_inputs
from equiformer_pytorch.atoms.evaluator import Evaluator, Frame, KeptNeighbours, Source
from equiformer_pytorch.atoms.second_derivatives import hessian
from equiformer_pytorch.base.potential import Potential

# What is computed with every energy once it was asked for: many programs ask for the energy first, then for the forces.
DERIVATIVES = frozenset(("forces", "stress", "stresses"))

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError('the ASE calculator needs ase: pip install "equiformer-pytorch[atoms]"') from error


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

    Raises:
        ImportError: ASE is not installed.
        ValueError: a committee without members, or whose members mean different things by one name; a file that holds
            no potential. In a calculation: elements that the potential does not know, positions that are not finite.
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
        one = isinstance(potential, Potential | str | os.PathLike | Mapping)
        sources: list[Source] = [potential] if one else list(potential)
        if not sources:
            raise ValueError("potential is empty: a committee needs at least one member")
        self.neighbours = KeptNeighbours(skin, torch.device(device))
        self.evaluators = [
            Evaluator(source, device=device, dtype=dtype, neighbours=self.neighbours) for source in sources
        ]
        self.members = [evaluator.potential for evaluator in self.evaluators]
        self.potential = self.members[0]
        for name in frozenset.intersection(*(frozenset(member.targets) for member in self.members)):
            if any(member.targets[name] != self.potential.targets[name] for member in self.members):
                raise ValueError(f"potential: the members of the committee mean different things by {name!r}")
        self.gives = frozenset.intersection(*(member.gives | member.parts for member in self.members))
        named = [*sorted(self.gives), "free_energy"]
        self.implemented_properties = named + [name + STD for name in named if len(self.members) > 1]
        self._warned = False
        self._inputs: dict[str, Tensor] = {}
        self._along: set[str] = set()

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
        self._inputs = self._inputs_of(atoms)  # ASE's copy of the atoms shares the arrays in their info
        wanted = {name.removesuffix(STD) for name in properties}
        wanted |= self._along
        self._along |= wanted & DERIVATIVES
        forces = not wanted.isdisjoint(DERIVATIVES)
        frame = frame_of(atoms)
        stress = forces and "stress" in self.gives and frame.has_volume
        per_atom = not wanted.isdisjoint(("energies", "stresses"))
        found = []
        for evaluator in self.evaluators:
            inputs = read_inputs(atoms, evaluator.potential.inputs)
            out = evaluator(frame, forces=forces, stress=stress, per_atom=per_atom, inputs=inputs)
            found.append({name: x for name, x in out.items() if name in self.gives})
        both = mean_and_spread(found)
        both |= {
            name.replace("energy", "free_energy"): both[name] for name in ("energy", "energy" + STD) if name in both
        }
        self.results = {name: self._as_ase_has_it(name, x) for name, x in both.items()}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last call, for ASE, which does not look at what only our models take."""
        self._warn_of_what_is_ignored(atoms)
        changed, before = super().check_state(atoms, tol), self._inputs
        if self.atoms is None:
            return changed
        now = self._inputs_of(atoms)
        same = {name for name, value in now.items() if name in before and torch.equal(before[name], value)}
        return changed + sorted(now.keys() - same)

    def _inputs_of(self, atoms: Atoms) -> dict[str, Tensor]:
        """What any of the members takes."""
        return read_inputs(atoms, {name: each for member in self.members for name, each in member.inputs.items()})

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy (atoms, 3, atoms, 3) in eV/Å², exact, as ``ase.vibrations.VibrationsData``
        takes them."""
        frame, found = frame_of(atoms), []
        for evaluator in self.evaluators:
            inputs = read_inputs(atoms, evaluator.potential.inputs)
            found.append(hessian(evaluator.potential, evaluator.structure(frame, inputs)))
        return torch.stack(found).mean(0).numpy()

    def _warn_of_what_is_ignored(self, atoms: Atoms) -> None:
        """Of a charge or spin that not all members take; once."""
        taken = frozenset.intersection(*(frozenset(member.inputs) for member in self.members))
        for name, value in ignored_inputs(atoms, taken).items():
            if not self._warned:
                warnings.warn(f"atoms.info has {name} = {value}, which the potential does not take", stacklevel=2)
                self._warned = True

    def _as_ase_has_it(self, name: str, x: Tensor) -> Any:
        """Of one structure, without its dimension, and a float where that leaves one number; stress as (xx, yy, zz, yz,
        xz, xy)."""
        found, name = x.cpu().numpy(), name.removesuffix(STD)
        target = self.potential.targets.get(name)
        if name in ("energy", "free_energy", "stress") or (target is not None and target.per == "structure"):
            found = np.asarray(found[0])
        found = full_3x3_to_voigt_6_stress(found) if name in ("stress", "stresses") else found
        return float(found) if found.ndim == 0 else found


def frame_of(atoms: Atoms) -> Frame:
    """Where ASE atoms are."""
    return Frame(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
