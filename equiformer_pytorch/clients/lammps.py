"""LAMMPS, by its `fix external`: forces, energy and virial of a potential are added to those of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from equiformer_pytorch.atoms.evaluator import Evaluator, Frame, Source
from equiformer_pytorch.base.elements import atomic_numbers
from equiformer_pytorch.clients.units import KCAL_PER_MOL, Units

UNITS = {"metal": Units(energy=1.0, length=1.0), "real": Units(energy=KCAL_PER_MOL, length=1.0)}
FIX = "equiformer"


def connect(
    lammps: Any,
    potential: Source,
    elements: Sequence[int | str],
    *,
    skin: float = 0.5,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    r"""Let a potential move the atoms of a simulation, by ``fix equiformer all external pf/callback 1 1``.

    LAMMPS gets forces, the energy, which becomes a part of ``pe``, and the virial :math:`W = -V\sigma`, a part of
    ``press``. A pair style adds to it: take ``pair_style zero``, or none. Neighbours are found here, so that lists of
    LAMMPS' own may be as short as they like. Positions may be unwrapped; boxes may be skewed, and may change.

    Where the potential raises an error in the course of a run, all it gives is NaN from then on and the run ends early:
    LAMMPS takes no errors from a callback. Python says what it was on stderr.

    Args:
        lammps: the ``lammps.lammps`` of a simulation in one process, with its box, in units ``metal`` or ``real``.
        potential: of any kind, which is copied and stays as it is; or a file of one.
        elements: of each type of atoms, of 1, 2, …, by atomic number or symbol.
        skin, device, dtype: as of :class:`~equiformer_pytorch.atoms.EquiformerCalculator`. float64 for dynamics that
            conserve energy.
        inputs: what the potential takes beside, of the structure, by name, e.g. ``{"charge": -1}``.

    Raises:
        ValueError: other units, several processes, types without an element; elements or inputs that the potential does
            not know; a potential without forces.
    """
    units, processes, types = (
        lammps.extract_global("units"),
        lammps.extract_setting("world_size"),
        lammps.extract_setting("ntypes"),
    )
    if units not in UNITS:
        raise ValueError(f"lammps must have units {' or '.join(UNITS)}, got {units}")
    if processes != 1:
        raise ValueError(f"lammps must be one process, since a potential sees all atoms; got {processes}")
    numbers = np.array(atomic_numbers("elements", elements))
    if numbers.shape != (types,):
        raise ValueError(f"elements must be one for each of the {types} types, got {elements!r}")
    evaluator = Evaluator(potential, skin=skin, device=device, dtype=dtype)
    evaluator.check(numbers.tolist(), inputs or {})
    stress = "stress" in evaluator.potential.gives
    lammps.command(f"fix {FIX} all external pf/callback 1 1")
    lammps.command(f"fix_modify {FIX} energy yes virial {'yes' if stress else 'no'}")
    lammps.set_fix_external_callback(
        FIX, Callback(evaluator, numbers, UNITS[units], dict(inputs or {}), stress), lammps
    )


@dataclass
class Callback:
    """What LAMMPS calls at every step."""

    evaluator: Evaluator
    numbers: np.ndarray
    """The atomic number of each type."""
    units: Units
    inputs: dict[str, Any]
    stress: bool
    """Whether there is a virial."""
    failed: bool = False

    def __call__(
        self, lammps: Any, step: int, count: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        energy, virial = float("nan"), [float("nan")] * 6
        forces[:] = float("nan")
        try:
            if not self.failed:
                energy, virial, forces[:] = self._evaluated(lammps, count, positions)
        except BaseException:
            self.failed = True
            lammps.force_timeout()
            raise
        finally:
            lammps.fix_external_set_energy_global(FIX, energy)
            if self.stress:
                lammps.fix_external_set_virial_global(FIX, virial)

    def _evaluated(self, lammps: Any, count: int, positions: np.ndarray) -> tuple[float, list[float], np.ndarray]:
        """Energy, virial (xx, yy, zz, xy, xz, yz) and forces, in LAMMPS' units."""
        low, high, xy, yz, xz, periodic, _ = lammps.extract_box()
        x, y, z = np.subtract(high, low)
        cell = np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]]) * self.units.length
        numbers = self.numbers[lammps.numpy.extract_atom("type")[:count] - 1]
        frame = Frame(numbers, positions * self.units.length, cell, np.array(periodic, dtype=bool))
        out = self.evaluator(frame, stress=self.stress, inputs=self.inputs)
        virial = np.zeros((3, 3))
        if self.stress:
            virial = out["stress"][0].double().cpu().numpy() * -abs(np.linalg.det(cell)) / self.units.energy
        forces = out["forces"].double().cpu().numpy() / (self.units.energy / self.units.length)
        rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
        return float(out["energy"]) / self.units.energy, virial[rows, columns].tolist(), forces
