"""Attention by the distance of query and key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import JointProducts
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.so3.rows import degree_index


class L2DistAttention(Attention):
    r"""Logits are minus the squared distance of query and key (Kim et al. 2020, eq. 8), per degree and head,

    .. math:: s_{ij}^h = -\lVert q_i^h - k_{ij}^h \rVert^2 / \sqrt{(2l+1)\,c}, \qquad k_{ij}^h = a^h \odot m_{ij},

    with one learned factor a per head and channel of the message m. The term in :math:`q^2` is the same for all
    slots and left out; what the linear map of the point gives is :math:`a \odot q`. Squared, the distance is smooth
    where query and key meet; the published package takes the unsquared one, whose gradient there is not defined.
    """

    def __init__(self, fiber: Fiber, fiber_out: Fiber, config: AttentionConfig) -> None:
        super().__init__(fiber, fiber_out, config)
        self.query_fiber = Fiber(h * self.channels for h in self.heads)
        self.to_query = Linear(fiber, self.query_fiber, bias=True)
        self.metric = nn.ParameterList(torch.ones(h, self.channels) for h in self.key_heads)
        scale = [columns**-0.5 for columns, heads in zip(self.columns, self.heads, strict=True) for _ in range(heads)]
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64), persistent=False)
        self._plan()
        if isinstance(self.points, JointProducts):
            for index, (low, high) in enumerate(self.points.groups):
                degrees = torch.tensor(degree_index(high - 1)[low**2 :]) - low
                own = F.one_hot(degrees, high - low).mT.to(torch.get_default_dtype())
                self.register_buffer(f"own_{index}", own[:, None, :, None], persistent=False)

    def logit_parameters(self) -> list[Tensor]:
        """The factors a of each degree."""
        return list(self.metric)

    def build_logits(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """a of all heads (columns) for the components of all degrees (rows), zero for those of other degrees."""
        columns = []
        for degree, (metric, heads) in enumerate(zip(parameters, self.heads, strict=True)):
            columns.append(metric.expand(heads, -1).repeat(1, 2 * degree + 1))
        return [torch.block_diag(*columns).mT]

    def query_columns(self, query: Float[Tensor, "rows width"]) -> Float[Tensor, "rows heads_components_channels"]:
        """As (head, component, channel), with zeros for components of another degree."""
        spaced, first = [], 0
        for part, heads in zip(self.query_fiber.split(query), self.heads, strict=True):
            of_heads = part.unflatten(2, (heads, self.channels)).transpose(1, 2)
            spaced.append(F.pad(of_heads, (0, 0, 0, 0, first, sum(self.heads) - first - heads)))
            first += heads
        return torch.cat(spaced, dim=2).flatten(1)

    def spaced_query(self, query: Any) -> Float[Tensor, "points heads components_channels"]:
        """As :meth:`query_columns`, of every point."""
        if self.gated:
            return query.unflatten(1, (sum(self.heads), -1))
        groups = [group for group in self.points.groups if group[0] < len(self.heads)]
        spaced = []
        for index, (group, (low, high)) in enumerate(zip(query.groups, groups, strict=True)):
            heads, first = self.heads[low], sum(self.heads[:low])
            part = group.unflatten(2, (heads, self.channels)).permute(1, 2, 0, 3)
            if high - low > 1:
                part = (part[:, None] * self.get_buffer(f"own_{index}").to(part.dtype)).flatten(1, 2)
            if part.shape[1] < sum(self.heads):
                part = F.pad(part, (0, 0, 0, 0, first, sum(self.heads) - first - part.shape[1]))
            spaced.append(part)
        return (torch.cat(spaced, dim=2) if len(spaced) > 1 else spaced[0]).flatten(2)

    def logits(
        self,
        messages: Float[Tensor, "receivers slots components_channels"],
        invariants: Float[Tensor, "receivers slots logit_invariants"],
        query: Tensor | None,
        matrices: Sequence[Tensor],
    ) -> Float[Tensor, "receivers slots heads"]:
        """As in the base class; asks for no invariants."""
        lengths = (messages * messages) @ matrices[0].square()
        logits = torch.baddbmm(lengths, messages, query.mT, beta=-1, alpha=2)
        return logits * self.cast("scale", logits.dtype)
