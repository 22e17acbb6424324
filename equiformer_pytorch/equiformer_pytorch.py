"""The import path of the published package; the model is in :mod:`equiformer_pytorch.models.equiformer`."""

from equiformer_pytorch.inputs.readout import AttentionWeights, Return
from equiformer_pytorch.layers.attention import L2DistAttention, MLPAttention
from equiformer_pytorch.models.equiformer import Equiformer

__all__ = ["AttentionWeights", "Equiformer", "L2DistAttention", "MLPAttention", "Return"]
