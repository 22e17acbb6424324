"""What only those need who work with atoms: potentials, neighbours in periodic cells, files, ASE."""

from typing import TYPE_CHECKING, Any

from equiformer_pytorch.atoms.neighbours import radius_graph
from equiformer_pytorch.atoms.potential import EquiformerPotential, Target
from equiformer_pytorch.atoms.structures import StructureDataset, collate_structures, load_structures

if TYPE_CHECKING:
    from equiformer_pytorch.atoms.calculator import EquiformerCalculator

__all__ = [
    "EquiformerCalculator",
    "EquiformerPotential",
    "StructureDataset",
    "Target",
    "collate_structures",
    "load_structures",
    "radius_graph",
]


def __getattr__(name: str) -> Any:
    # ASE is an extra, and importing it takes a while.
    if name == "EquiformerCalculator":
        from equiformer_pytorch.atoms.calculator import EquiformerCalculator

        return EquiformerCalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
