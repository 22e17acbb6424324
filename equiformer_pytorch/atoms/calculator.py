"""`EquiformerCalculator`: a potential or a published model as an ASE calculator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.atoms.load import load_potential
from equiformer_pytorch.atoms.potential import EquiformerPotential
from equiformer_pytorch.graph.periodic import radius_graph
from equiformer_pytorch.published.model import PublishedModel

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError('the ASE calculator needs ase: pip install "equiformer-pytorch[atoms]"') from error


class EquiformerCalculator(Calculator):
    """Energy (eV), forces (eV/Å), stress (eV/Å³) and the targets of a potential, for ASE.

    Neighbours within cutoff + `skin` are found once and kept until an atom has moved by half the skin, or the cell,
    the species or the periodicity changed. The numbers are the same: whatever is beyond the cutoff weighs nothing.

    Args:
        potential: an :class:`EquiformerPotential`, :class:`EquiformerV2` or :class:`EquiformerV3`, or a file of one,
            as :func:`~equiformer_pytorch.atoms.load_potential` takes it.
        skin: in Å; 0 finds neighbours at every step. Models with a largest number of neighbours always do.
        device: where to compute.
        dtype: of positions and weights; None keeps that of the weights. float64 for dynamics that conserve energy.
    """

    def __init__(
        self,
        potential: EquiformerPotential | PublishedModel | str | os.PathLike[str] | Mapping[str, Any],
        *,
        skin: float = 0.5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(potential, EquiformerPotential | PublishedModel):
            potential = load_potential(potential)
        if skin < 0:
            raise ValueError(f"skin must be at least 0, got {skin}")
        self.potential = potential.to(device=device, dtype=dtype).eval()
        self.skin = 0.0 if potential.max_neighbors is not None else float(skin)
        self.targets = dict(potential.targets) if isinstance(potential, EquiformerPotential) else {}
        self.implemented_properties = ["energy", "free_energy", "forces", "stress", *self.targets]
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
        with torch.no_grad():
            if isinstance(self.potential, EquiformerPotential):
                out = self._evaluate(self.potential, atoms, properties)
            else:
                out = self.potential.predict(atoms)
                if atoms.cell.rank < 3:
                    out.pop("stress", None)  # it is per volume
        results: dict[str, Any] = {name: tensor.detach().double().cpu().numpy() for name, tensor in out.items()}
        results["energy"] = results["free_energy"] = float(results["energy"][0])
        if "stress" in results:
            results["stress"] = full_3x3_to_voigt_6_stress(results["stress"].reshape(3, 3))
        for name, target in self.targets.items():
            if target.per == "structure":
                results[name] = results[name][0]
        self.results = results

    def _evaluate(self, potential: EquiformerPotential, atoms: Atoms, properties: Sequence[str]) -> dict[str, Tensor]:
        """With neighbours that are kept."""
        network, periodic = potential.network, bool(atoms.pbc.any())
        edge_index, cell_offsets = self._neighbours(potential, atoms)
        return potential(
            torch.as_tensor(atoms.numbers, dtype=torch.long, device=network.device),
            torch.as_tensor(atoms.positions, dtype=network.dtype, device=network.device),
            cell=torch.as_tensor(atoms.cell.array, device=network.device)[None] if periodic else None,
            edge_index=edge_index,
            cell_offsets=cell_offsets if periodic else None,
            forces="forces" in properties or "stress" in properties,
            stress=periodic and atoms.cell.rank == 3 and "stress" in properties,
        )

    def _neighbours(self, potential: EquiformerPotential, atoms: Atoms) -> tuple[Tensor, Tensor]:
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
        device = potential.network.device
        edge_index, cell_offsets = radius_graph(
            torch.as_tensor(atoms.positions),
            potential.cutoff + self.skin,
            cell=torch.as_tensor(atoms.cell.array)[None],
            pbc=torch.as_tensor(atoms.pbc)[None],
            max_neighbors=potential.max_neighbors,
        )
        self.searches += 1
        self._kept = (atoms.copy(), edge_index.to(device), cell_offsets.to(device))
        return self._kept[1:]
