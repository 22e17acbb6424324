"""The denoiser: Equiformers on the points of a backbone that know which of them the chain connects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equiformer_pytorch import Equiformer
from examples.denoising.chain_map import ChainMap

EARLIER = 0.3
"""Weight of what networks before the last leave, beside 1 of the last."""


def chain_relations(positions: Tensor, mask: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """What the chain tells of each pair of points.

    Args: positions (b, n) along the chain, mask (b, n), and the reach in atoms.
    Returns: edge tokens (b, n, n), `reach + offset` within reach and `2 reach + 1` for "no relation"; and the adjacency
    (b, n, n) of the pairs within reach, without a point's own entry.
    """
    offset = positions[:, None, :] - positions[:, :, None]
    related = (offset.abs() <= reach) & mask[:, None, :] & mask[:, :, None]
    return torch.where(related, offset + reach, 2 * reach + 1), related & (offset != 0)


class BackboneDenoiser(nn.Module):
    """Predicts the displacement, in Å, that takes each noised point back to where it was.

    Networks work one after another, each on the points where the one before left them, the first on those of a linear
    map of the chain: the less noise is left, the more the directions of edges say. A point attends to all within
    `chain_reach` atoms along the chain and to the `neighbors` nearest others in space. All networks but the last have
    degrees 0 and 1 alone.
    """

    def __init__(
        self,
        num_tokens: int,
        dim: Sequence[int],
        depth: int,
        heads: int,
        dim_head: int,
        neighbors: int,
        chain_reach: int,
        networks: int,
        start_reach: int,
    ) -> None:
        super().__init__()
        self.chain_reach = chain_reach
        self.start = ChainMap(start_reach) if start_reach else None

        def network(dim: Sequence[int]) -> Equiformer:
            return Equiformer(
                num_tokens=num_tokens,
                dim=tuple(dim),
                num_degrees=len(dim),
                depth=depth,
                heads=heads,
                dim_head=dim_head,
                num_edge_tokens=2 * chain_reach + 2,
                edge_dim=16,
                attend_sparse_neighbors=True,
                num_neighbors=neighbors,
                reduce_dim_out=True,
                l2_dist_attention=False,  # docs/performance.md, Learning: the comparison is an early one
            )

        self.earlier = nn.ModuleList(network(dim[:2]) for _ in range(networks - 1))
        self.net = network(dim)

    def forward(self, tokens: Tensor, coords: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """tokens, positions, mask (b, n), coords (b, n, 3) in Å -> displacements (networks, b, n, 3), from `coords` to
        where each network leaves the points; the last is the answer."""
        edges, adjacency = chain_relations(positions, mask, self.chain_reach)
        moved = torch.zeros_like(coords) if self.start is None else self.start(tokens, coords, positions, mask)
        found = []
        for net in (*self.earlier, self.net):
            moved = moved + net(tokens, coords + moved, mask, adj_mat=adjacency, edges=edges).type1
            found.append(moved)
        return torch.stack(found)


def variance_left(predicted: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Share of the noise's variance that is left, of each structure: |noise + predicted|² / |noise|².

    Args: predicted, noise (b, n, 3), mask (b, n). Returns (b,).
    """
    left = ((noise + predicted).square().sum(-1) * mask).sum(-1)
    return left / (noise.square().sum(-1) * mask).sum(-1).clamp(min=1e-12)


def denoising_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean over the structures of the variance left, 1 for a model that predicts nothing; and what the networks before
    the last leave, times `EARLIER`."""
    predicted = model(batch["tokens"], batch["coords"] + batch["noise"], batch["positions"], batch["mask"])
    *earlier, last = (variance_left(moved, batch["noise"], batch["mask"]).mean() for moved in predicted)
    return last + EARLIER * sum(earlier)
