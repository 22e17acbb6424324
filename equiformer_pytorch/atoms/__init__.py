"""What only those need who work with atoms: potentials, neighbours in periodic cells, files, ASE."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiformer_pytorch.atoms.neighbours import radius_graph
from equiformer_pytorch.atoms.potential import EquiformerPotential, Target

if TYPE_CHECKING:
    from equiformer_pytorch.atoms.calculator import EquiformerCalculator
    from equiformer_pytorch.atoms.structures import StructureDataset, collate_structures, load_structures

__all__ = [
    "EquiformerCalculator",
    "EquiformerPotential",
    "StructureDataset",
    "Target",
    "collate_structures",
    "load_structures",
    "radius_graph",
]

# What stands on the extra `atoms` is imported when it is asked for.
_LATER = {
    "EquiformerCalculator": "calculator",
    "StructureDataset": "structures",
    "collate_structures": "structures",
    "load_structures": "structures",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
