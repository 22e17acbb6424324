"""Where 1.2 had it."""

from equiformer_pytorch.inputs.features import EdgeFeatures, PointFeatures

__all__ = ["EdgeFeatures", "PointFeatures"]
