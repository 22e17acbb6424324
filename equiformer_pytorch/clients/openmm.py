"""OpenMM, by OpenMM-ML: ``MLPotential("equiformer", modelPath="potential.pt")``, without ASE in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory  # pyright: ignore[reportMissingImports]

if TYPE_CHECKING:  # imported late: OpenMM-ML loads this module for every program that imports it
    import openmm
    import openmm.app
    import torch

    from equiformer_pytorch.atoms.evaluator import Evaluator, Source


class EquiformerPotentialImplFactory(MLPotentialImplFactory):
    """What the entry point ``equiformer`` of the group ``openmmml.potentials`` names."""

    def createImpl(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        name: str,
        modelPath: Source,  # noqa: N803
    ) -> EquiformerPotentialImpl:
        """Of ``MLPotential(name, modelPath=…)``, with the name "equiformer": a file, or a potential."""
        return EquiformerPotentialImpl(modelPath)


class EquiformerPotentialImpl(MLPotentialImpl):
    """A potential as a ``PythonForce`` of OpenMM. Its energies are in eV, OpenMM's in kJ/mol.

    Args:
        potential: of any kind, or a file of one.
    """

    def __init__(self, potential: Source) -> None:
        self.potential = potential

    def addForces(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        skin: float = 0.5,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        """What ``createSystem`` and ``createMixedSystem`` call, with their further arguments by name.

        Args:
            topology: with the elements of the atoms; with box vectors, all of which repeat, or without.
            system: to which the force is added.
            atoms: those that the potential moves; None: all.
            forceGroup: of the force.
            device, dtype, skin: as of :class:`~equiformer_pytorch.atoms.EquiformerCalculator`.
            inputs: what the potential takes beside, by name, e.g. ``{"charge": -1}``.

        Raises:
            ValueError: an atom without an element; elements or inputs that the potential does not know; a potential
                without forces.
        """
        import numpy as np
        import openmm

        from equiformer_pytorch.atoms.evaluator import Evaluator

        chosen = list(topology.atoms())
        indices = None if atoms is None else list(atoms)
        chosen = chosen if indices is None else [chosen[index] for index in indices]
        without = [atom.name for atom in chosen if atom.element is None]
        if without:
            raise ValueError(f"topology must have an element for each atom, there is none for {without[:5]}")
        numbers = np.array([atom.element.atomic_number for atom in chosen])
        evaluator = Evaluator(self.potential, skin=skin, device=device, dtype=dtype)
        evaluator.check(numbers.tolist(), inputs or {})
        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        force = openmm.PythonForce(Compute(evaluator, numbers, periodic, dict(inputs or {})))
        force.setForceGroup(forceGroup)
        force.setUsesPeriodicBoundaryConditions(periodic)
        if indices is not None:
            force.setParticles(indices)
        system.addForce(force)

    def getMLLongRange(self) -> bool:  # noqa: N802
        """Atoms see each other within the cutoff, no farther."""
        return False


class Compute:
    """What OpenMM calls at every step: energy in kJ/mol and forces in kJ/mol/nm."""

    def __init__(self, evaluator: Evaluator, numbers: Any, periodic: bool, inputs: dict[str, Any]) -> None:
        self.evaluator, self.numbers, self.periodic, self.inputs = evaluator, numbers, periodic, inputs

    def __call__(self, state: openmm.State) -> tuple[float, Any]:
        import numpy as np
        from openmm import unit

        from equiformer_pytorch.atoms.evaluator import Frame
        from equiformer_pytorch.clients.units import KJ_PER_MOL

        positions: Any = state.getPositions(asNumpy=True)
        cell = np.zeros((3, 3))
        if self.periodic:
            vectors: Any = state.getPeriodicBoxVectors(asNumpy=True)
            cell = np.array(vectors.value_in_unit(unit.angstrom))
        where = np.asarray(positions.value_in_unit(unit.angstrom))
        frame = Frame(self.numbers, where, cell, np.full(3, self.periodic))
        out = self.evaluator(frame, inputs=self.inputs)
        forces = out["forces"].double().cpu().numpy()
        return float(out["energy"]) / KJ_PER_MOL, forces * 10 / KJ_PER_MOL
