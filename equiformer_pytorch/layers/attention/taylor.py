"""Global attention of the invariants, linear in the number of points."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph


class TaylorLinearAttention(nn.Module):
    r"""Every point attends to all points of its structure, with weights ∝ the second-order Taylor series of exp,

    .. math:: o_i = \frac{\sum_j \phi(q_i)\cdot\phi(k_j)\,v_j}{\sum_j \phi(q_i)\cdot\phi(k_j)}, \qquad
        \phi(q)\cdot\phi(k) = 1 + q\cdot k + \tfrac12 (q\cdot k)^2 \ge \tfrac12,

    so that the sums over j are formed once per structure (Arora et al. 2023, section 5). Queries carry the usual
    factor dim_head^(-1/2). A sigmoid gate per head and channel follows, as in the published package.

    Args:
        dim: invariants of each point.
        dim_head, heads: channels per head, and heads; heads · dim_head come out.
    """

    def __init__(self, dim: int, *, dim_head: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = dim_head**-0.5
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_gates = nn.Linear(dim, heads * dim_head)

    def forward(self, invariants: Float[Tensor, "points dim"], graph: EdgeGraph) -> Float[Tensor, "points heads_dim"]:
        """What each point takes in from all points of its structure; ValueError of a graph without their table."""
        query, key, value = rearrange(self.to_qkv(invariants), "p (three h d) -> three p h d", three=3, h=self.heads)
        structures = graph.structures
        if structures is None:
            raise ValueError("this graph has no table of each structure's points")
        query = structures.spread(_taylor_features(query * self.scale))
        key = structures.spread(_taylor_features(key))
        value = structures.spread(torch.nn.functional.pad(value, (0, 1), value=1.0))
        if structures.mask is not None:
            value = value * structures.mask[:, :, None, None]
        summary = torch.einsum("bnhf,bnhd->bhfd", key, value)
        weighted = structures.gather(torch.einsum("bnhf,bhfd->bnhd", query, summary))
        numerator, denominator = weighted.split([weighted.shape[-1] - 1, 1], dim=-1)
        out = rearrange(numerator / denominator, "p h d -> p (h d)")
        return out * torch.sigmoid(self.to_gates(invariants))


def _taylor_features(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch features"]:
    """φ with φ(q)·φ(k) = 1 + q·k + (q·k)²/2; the symmetric products once, off-diagonal ones with weight √2."""
    dim = x.shape[-1]
    row, column = torch.triu_indices(dim, dim, device=x.device)
    weight = torch.where(row == column, 0.5**0.5, 1.0).to(x.dtype)
    products = x[..., row] * x[..., column] * weight
    return torch.cat((torch.ones_like(x[..., :1]), x, products), dim=-1)
