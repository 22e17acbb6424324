"""Equivariant attention networks for molecules, proteins and materials."""

from equiformer_pytorch.atoms.potential import EquiformerPotential
from equiformer_pytorch.equiformer_pytorch import Equiformer
from equiformer_pytorch.equiformer_v2 import EquiformerV2
from equiformer_pytorch.equiformer_v3 import EquiformerV3
from equiformer_pytorch.version import __version__

__all__ = ["Equiformer", "EquiformerPotential", "EquiformerV2", "EquiformerV3", "__version__"]
