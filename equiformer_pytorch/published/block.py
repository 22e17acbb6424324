"""One layer: attention and feed-forward, each normed before and added to the features."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.published.attention import GraphAttention
from equiformer_pytorch.published.drop import EquivariantDropout, GraphDropPath
from equiformer_pytorch.published.feedforward import FeedForward


class Block(nn.Module):
    r"""Attention and feed-forward,

    .. math:: x ← x + \mathrm{Attention}(\mathrm{norm}\,x), \qquad x ← x + \mathrm{FeedForward}(\mathrm{norm}\,x);

    in training whole branches and channels are dropped.
    """

    def __init__(
        self,
        norm_1: nn.Module,
        attention: GraphAttention,
        norm_2: nn.Module,
        feed_forward: FeedForward,
        drop_path: float,
        dropout: EquivariantDropout,
    ) -> None:
        super().__init__()
        self.norm_1, self.ga, self.norm_2, self.ffn = norm_1, attention, norm_2, feed_forward
        self.drop_path, self.proj_drop = GraphDropPath(drop_path), dropout

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        edges: EdgeGraph,
        batch: Int[Tensor, " atoms"],
        structures: int,
    ) -> Float[Tensor, "atoms components channels"]:
        x = x + self.proj_drop(self.drop_path(self.ga(self.norm_1(x), edges), batch, structures))
        return x + self.proj_drop(self.drop_path(self.ffn(self.norm_2(x)), batch, structures))
