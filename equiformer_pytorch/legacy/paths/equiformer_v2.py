"""Where 1.2 had it."""

from equiformer_pytorch.models.equiformer_v2 import EquiformerV2

__all__ = ["EquiformerV2"]
