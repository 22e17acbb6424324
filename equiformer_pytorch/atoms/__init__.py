"""What only those need who work with atoms: potentials, neighbours in periodic cells, files, ASE."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiformer_pytorch.atoms.potential import EquiformerPotential
from equiformer_pytorch.base.potential import Input, Potential, Target
from equiformer_pytorch.graph.periodic import radius_graph

if TYPE_CHECKING:
    from equiformer_pytorch.atoms.batches import element_energies, gives_stress, predict, refit_references
    from equiformer_pytorch.atoms.calculator import EquiformerCalculator
    from equiformer_pytorch.atoms.dataset import StructureDataset, collate_structures, load_structures
    from equiformer_pytorch.atoms.exported import export_potential
    from equiformer_pytorch.atoms.load import load_potential
    from equiformer_pytorch.atoms.second_derivatives import hessian

__all__ = [
    "EquiformerCalculator",
    "EquiformerPotential",
    "Input",
    "Potential",
    "StructureDataset",
    "Target",
    "collate_structures",
    "element_energies",
    "export_potential",
    "gives_stress",
    "hessian",
    "load_potential",
    "load_structures",
    "predict",
    "radius_graph",
    "refit_references",
]

# What stands on the extra `atoms`, or on all models, is imported when it is asked for.
_LATER = {
    "EquiformerCalculator": "calculator",
    "StructureDataset": "dataset",
    "collate_structures": "dataset",
    "element_energies": "batches",
    "export_potential": "exported",
    "gives_stress": "batches",
    "hessian": "second_derivatives",
    "load_potential": "load",
    "load_structures": "dataset",
    "predict": "batches",
    "refit_references": "batches",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Pickles of 1.2 name modules that are elsewhere now.
__path__.append(f"{__path__[0]}/../legacy/paths/atoms")
