"""Equivariant attention networks for molecules, proteins and materials."""

from equiformer_pytorch.atoms.potential import EquiformerPotential
from equiformer_pytorch.equiformer_pytorch import Equiformer
from equiformer_pytorch.version import __version__

__all__ = ["Equiformer", "EquiformerPotential", "__version__"]
