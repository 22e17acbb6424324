"""Attention over the edges of a graph, and linear attention over all points of a structure."""

from equiformer_pytorch.layers.attention.l2_distance import L2DistAttention
from equiformer_pytorch.layers.attention.mlp import MLPAttention
from equiformer_pytorch.layers.attention.taylor import TaylorLinearAttention

__all__ = ["L2DistAttention", "MLPAttention", "TaylorLinearAttention"]
