"""Where 1.2 had it."""

from equiformer_pytorch.models.equiformer_v3 import EquiformerV3

__all__ = ["EquiformerV3"]
