"""TorchSim: a potential of any kind as its ``ModelInterface``, for many structures at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface  # pyright: ignore[reportMissingImports]

from equiformer_pytorch.atoms.evaluator import Source, own_potential


class EquiformerModel(ModelInterface):
    """``ts.integrate(system=…, model=EquiformerModel("potential.pt"), …)``: energies (eV), forces (eV/Å), stresses
    (eV/Å³) of a state, in the model's dtype, and the targets of the potential.

    Neighbours are found at every call, for all structures of a state together. TorchSim's states are periodic along
    all axes or none, and made of ASE atoms without what is in ``atoms.info``: of slabs and wires, and of atoms with a
    charge there, energies are not those of the calculator, and nothing here can tell.

    Args:
        potential: of any kind, which is copied and stays as it is; or a file of one.
        device: where to compute.
        dtype: of the weights and of what comes out; None keeps that of the weights.
        compute_forces, compute_stress: whether to; the stress by default where the potential gives it.

    Raises:
        ValueError: a stress is wanted of a potential that gives none.
    """

    def __init__(
        self,
        potential: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        compute_forces: bool = True,
        compute_stress: bool | None = None,
    ) -> None:
        super().__init__()
        self._device = torch.device(device)
        self.potential = own_potential(potential).to(device=self._device, dtype=dtype).eval()
        self._dtype = next(self.potential.parameters()).dtype
        self._compute_forces = False
        self._compute_stress = False
        self.compute_forces = compute_forces
        self.compute_stress = "stress" in self.potential.gives if compute_stress is None else compute_stress

    @property
    def compute_forces(self) -> bool:
        """Whether forces are computed."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = self._possible("forces", compute_forces)

    @property
    def compute_stress(self) -> bool:
        """Whether stresses are computed."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = self._possible("stress", compute_stress)

    def _possible(self, name: str, wanted: bool) -> bool:
        if wanted and name not in self.potential.gives:
            # What TorchSim takes for "this model has none".
            raise NotImplementedError(f"{name} is wanted, the potential gives {sorted(self.potential.gives)}")
        return wanted

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Of a `state`, a ``SimState`` or a dict with its names: energy, forces, stress and targets by name.

        Raises:
            ValueError, TypeError: as :meth:`Potential.evaluate` of the potential.
        """

        def of(name: str) -> Any:
            return state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)

        numbers, cell, batch = of("atomic_numbers"), of("cell"), of("system_idx")
        structures = {
            "atomic_numbers": numbers,
            "pos": of("positions"),
            "batch": torch.zeros_like(numbers) if batch is None else batch,
            "cell": cell.mT,  # TorchSim's vectors are columns
            "pbc": torch.as_tensor(of("pbc"), device=cell.device).broadcast_to(len(cell), 3),
        }
        structures |= {name: given for name in self.potential.inputs if (given := of(name)) is not None}
        with torch.no_grad():
            out = self.potential.evaluate(structures, forces=self.compute_forces, stress=self.compute_stress)
        wanted = {
            "energy",
            *self.potential.targets,
            *["forces"] * self.compute_forces,
            *["stress"] * self.compute_stress,
        }
        return {name: x.to(self.dtype) for name, x in out.items() if name in wanted}
