"""Equivariant attention networks for molecules, proteins and materials."""

from equiformer_pytorch.equiformer_pytorch import Equiformer
from equiformer_pytorch.version import __version__

__all__ = ["Equiformer", "__version__"]
