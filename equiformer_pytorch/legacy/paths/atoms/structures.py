"""Where 1.2 had it."""

from equiformer_pytorch.atoms.dataset import StructureDataset, collate_structures, load_structures

__all__ = ["StructureDataset", "collate_structures", "load_structures"]
