"""eSCN-MD: the network of eSEN (Fu et al. 2025, arXiv 2502.12147) and UMA (Wood et al. 2025, arXiv 2506.23971)."""

from __future__ import annotations

from torch import nn

from equiformer_pytorch.base.arguments import as_config, takes
from equiformer_pytorch.published.escn_md.arguments import DEFAULT_HEADS, ESCNMDArguments
from equiformer_pytorch.published.escn_md.backbone import Backbone
from equiformer_pytorch.published.escn_md.heads import build_head
from equiformer_pytorch.published.escn_md.model import Model
from equiformer_pytorch.published.escn_md.outputs import Outputs


class ESCNMD(Model):
    r"""doc"""

    family = "ESCNMD"

    @takes(ESCNMDArguments)
    def __init__(self, given: ESCNMDArguments) -> None:
        super().__init__()
        self.config = as_config(given)
        self.cutoff, self.max_neighbors = float(given.cutoff), given.max_neighbors
        self.regress = given.regress_forces, given.regress_stress
        heads = DEFAULT_HEADS if given.heads is None else given.heads
        self.outputs = Outputs.of(heads, given)
        self.backbone = Backbone(given, tuple(sorted(given.datasets)))
        self.output_heads = nn.ModuleDict({name: build_head(name, heads[name], given) for name in sorted(heads)})

    @classmethod
    def from_checkpoint(cls, source): raise NotImplementedError
    @classmethod
    def recognises(cls, weights): return any("edge_wise.so2_conv_1." in n for n in weights)
