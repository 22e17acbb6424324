"""`EquiformerCalculator`: a potential or a published model as an ASE calculator."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.atoms.load import load_potential
from equiformer_pytorch.atoms.second_derivatives import hessian
from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.graph.periodic import radius_graph

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError('the ASE calculator needs ase: pip install "equiformer-pytorch[atoms]"') from error


class EquiformerCalculator(Calculator):
    """Energy (eV), forces (eV/Å), stress (eV/Å³), parts of energy and stress of each atom (get_potential_energies,
    get_stresses) and the targets of a potential, for ASE.

    Neighbours within cutoff + `skin` are found once and kept until an atom has moved by half the skin, or the cell,
    the species or the periodicity changed. The numbers are the same: whatever is beyond the cutoff weighs nothing.

    Args:
        potential: of any kind, which is copied and stays as it is; or a file of one, as
            :func:`~equiformer_pytorch.atoms.load_potential` takes it.
        skin: in Å; 0 finds neighbours at every step. Models with a largest number of neighbours always do.
        device: where to compute.
        dtype: of the weights, in which all is computed but differences of positions, which are float64; None keeps
            that of the weights. float64 for dynamics that conserve energy.
    """

    def __init__(
        self,
        potential: Potential | str | os.PathLike[str] | Mapping[str, Any],
        *,
        skin: float = 0.5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if skin < 0:
            raise ValueError(f"skin must be at least 0, got {skin}")
        with lasting_tensors():
            own = copy.deepcopy(potential) if isinstance(potential, Potential) else load_potential(potential)
            self.potential = own.to(device=device, dtype=dtype).eval()
        self.device = torch.device(device)
        self.skin = 0.0 if self.potential.max_neighbors is not None else float(skin)
        given = self.potential.gives
        self.implemented_properties = ["energy", "free_energy", *sorted(given - {"energy"})]
        self.searches = 0
        self._kept: tuple[Atoms, Tensor, Tensor] | None = None

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
        forces = any(name in properties for name in ("forces", "stress", "stresses"))
        stress = forces and "stress" in self.potential.gives and bool(atoms.cell.rank == 3)  # it is per volume
        per_atom = any(name in properties for name in ("energies", "stresses"))
        with torch.no_grad():
            out = self.potential.evaluate(self._structure(atoms), forces=forces, stress=stress, per_atom=per_atom)
        results: dict[str, Any] = {name: tensor.double().cpu().numpy() for name, tensor in out.items()}
        results["energy"] = results["free_energy"] = float(results["energy"][0])
        for name in ("stress", "stresses"):
            if name in results:
                results[name] = full_3x3_to_voigt_6_stress(results[name][0] if name == "stress" else results[name])
        for name, target in self.potential.targets.items():
            if target.per == "structure":
                results[name] = results[name][0]
        self.results = results

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy (atoms, 3, atoms, 3) in eV/Å², exact, as ``ase.vibrations.VibrationsData``
        takes them."""
        return hessian(self.potential, self._structure(atoms)).numpy()

    def _structure(self, atoms: Atoms) -> dict[str, Tensor]:
        """A batch of one, with neighbours that are kept."""
        edge_index, cell_offsets = self._neighbours(atoms)
        return {
            "atomic_numbers": torch.as_tensor(atoms.numbers, dtype=torch.long, device=self.device),
            "pos": torch.as_tensor(atoms.positions, dtype=torch.float64, device=self.device),
            "cell": torch.as_tensor(atoms.cell.array, dtype=torch.float64, device=self.device)[None],
            "edge_index": edge_index,
            "cell_offsets": cell_offsets,
        }

    def _neighbours(self, atoms: Atoms) -> tuple[Tensor, Tensor]:
        """Within cutoff + skin; those of before, where they still hold all that are within the cutoff."""
        if self._kept is not None:
            before, edge_index, cell_offsets = self._kept
            same = (
                np.array_equal(before.numbers, atoms.numbers)
                and np.array_equal(before.pbc, atoms.pbc)
                and np.array_equal(before.cell.array, atoms.cell.array)
            )
            if same and self.skin > 0:
                moved = np.linalg.norm(atoms.positions - before.positions, axis=1)
                if moved.max(initial=0.0) < self.skin / 2:
                    return edge_index, cell_offsets
        edge_index, cell_offsets = radius_graph(
            torch.as_tensor(atoms.positions, device="cpu"),
            self.potential.cutoff + self.skin,
            cell=torch.as_tensor(atoms.cell.array, device="cpu")[None],
            pbc=torch.as_tensor(atoms.pbc & self.potential.use_pbc, device="cpu")[None],
            max_neighbors=self.potential.max_neighbors,
        )
        self.searches += 1
        self._kept = (atoms.copy(), edge_index.to(self.device), cell_offsets.to(self.device))
        return self._kept[1:]
