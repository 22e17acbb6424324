"""metatomic: a potential of any kind as an ``AtomisticModel``, in the process of the program that calls it.

Annotations are looked at by metatomic when the module is made, so they are not put off here.
"""

from collections.abc import Mapping
from typing import Any, Dict, List, Optional  # noqa: UP035

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap  # pyright: ignore
from metatomic.torch import (  # pyright: ignore[reportMissingImports]
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    System,
)
from torch import Tensor, nn

from equiformer_pytorch.atoms.evaluator import Source, own_potential
from equiformer_pytorch.version import __version__

FORCES, STRESS = "non_conservative_force", "non_conservative_stress"


def atomistic_model(
    potential: Source,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    name: str = "",
    inputs: Mapping[str, float] | None = None,
) -> AtomisticModel:
    """For ``MetatomicCalculator`` and other engines that take an ``AtomisticModel`` in Python.

    It gives ``energy`` (eV) of structures or of each atom, which engines differentiate by positions and cells, and
    ``non_conservative_force`` (eV/Å) and ``non_conservative_stress`` (eV/Å³): forces and stress as the potential itself
    gives them, from heads of their own or not. Neighbours are found here. It cannot be saved as TorchScript: for files
    that run without this package see :func:`~equiformer_pytorch.atoms.export_potential`.

    Args:
        potential: of any kind, which is copied and stays as it is; or a file of one.
        device: where to compute.
        dtype: of the weights and of all that goes in and out, float32 or float64; None keeps that of the weights.
            Energies of many atoms have more digits than float32 holds.
        name: of the model, for its metadata.
        inputs: what the potential takes beside, the same for all structures, by name; its defaults for others.

    Raises:
        ValueError: the dtype is neither; inputs that the potential does not take.
    """
    own = own_potential(potential).to(device=torch.device(device), dtype=dtype).eval()
    dtypes = {torch.float32: "float32", torch.float64: "float64"}
    weights = next(own.parameters()).dtype
    if weights not in dtypes:
        raise ValueError(f"dtype must be float32 or float64, got {weights}")
    unknown = sorted(set(inputs or {}).difference(own.inputs))
    if unknown:
        raise ValueError(f"inputs has {unknown}, the potential takes {sorted(own.inputs)}")
    gives = {"energy": ModelOutput(unit="eV", sample_kind="atom" if "energies" in own.parts else "system")}
    if "forces" in own.gives:
        gives[FORCES] = ModelOutput(unit="eV/angstrom", sample_kind="atom")
    if "stress" in own.gives:
        gives[STRESS] = ModelOutput(unit="eV/angstrom^3", sample_kind="system")
    capabilities = ModelCapabilities(
        outputs=gives,
        atomic_types=list(own.elements),
        interaction_range=float("inf"),  # all atoms must be there: nothing is cut into domains
        length_unit="angstrom",
        supported_devices=[torch.device(device).type],
        dtype=dtypes[weights],
    )
    metadata = ModelMetadata(name=name or own.family, description=f"{own.family} of equiformer-pytorch {__version__}")
    module: Any = EquiformerModule(own, dict(inputs or {}))
    return AtomisticModel(module, metadata, capabilities)


class EquiformerModule(nn.Module):
    """metatomic's ``ModelInterface``."""

    def __init__(self, potential: Any, inputs: dict[str, float]) -> None:
        super().__init__()
        self.potential, self.inputs = potential, inputs
        self.eval()

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """See :func:`atomistic_model`.

        Raises:
            ValueError: atoms are selected; and as :meth:`Potential.evaluate` of the potential.
        """
        if selected_atoms is not None:
            raise ValueError("selected_atoms must be None: energies are those of all atoms of a system")
        if not systems:
            raise ValueError("systems is empty")
        structures = self._structures(systems)
        found: Dict[str, TensorMap] = {}  # noqa: UP006
        dtype = systems[0].positions.dtype
        if "energy" in outputs:
            per_atom = outputs["energy"].sample_kind == "atom"
            out = self.potential.evaluate(structures, forces=False, per_atom=per_atom)
            energy = out["energies" if per_atom else "energy"].to(dtype)
            found["energy"] = _map("energy", energy[:, None], structures["batch"] if per_atom else None)
        if FORCES in outputs or STRESS in outputs:
            with torch.no_grad():
                out = self.potential.evaluate(structures, forces=FORCES in outputs, stress=STRESS in outputs)
            if FORCES in outputs:
                forces = out["forces"].to(dtype)[:, :, None]
                found[FORCES] = _map(FORCES, forces, structures["batch"], ["xyz"])
            if STRESS in outputs:
                found[STRESS] = _map(STRESS, out["stress"].to(dtype)[..., None], None, ["xyz_1", "xyz_2"])
        return found

    def _structures(self, systems: Any) -> dict[str, Tensor]:
        """As a batch."""
        sizes = torch.tensor([len(system) for system in systems], device=systems[0].device)
        count = len(systems)
        inputs = {
            name: torch.full((count,), value, dtype=torch.float64, device=systems[0].device)
            for name, value in self.inputs.items()
        }
        return {
            **inputs,
            "atomic_numbers": torch.cat([system.types for system in systems]),
            "pos": torch.cat([system.positions for system in systems]),
            "cell": torch.stack([system.cell for system in systems]),
            "pbc": torch.stack([system.pbc for system in systems]),
            "batch": torch.arange(count, device=systems[0].device).repeat_interleave(sizes),
        }


def _map(name: str, values: Tensor, batch: Tensor | None, axes: list[str] | None = None) -> TensorMap:
    """One block, with samples structures or (`batch`) atoms, and components along `axes`."""
    device = values.device
    if batch is None:
        samples = Labels(["system"], torch.arange(len(values), device=device)[:, None])
    else:
        first = torch.searchsorted(batch, batch)
        atoms = torch.arange(len(values), device=device) - first
        samples = Labels(["system", "atom"], torch.stack((batch, atoms), dim=1))
    components = [Labels([axis], torch.arange(3, device=device)[:, None]) for axis in axes or []]
    single = torch.zeros(1, 1, dtype=torch.long, device=device)
    block = TensorBlock(values, samples, components, Labels([name], single))
    return TensorMap(Labels(["_"], single), [block])
