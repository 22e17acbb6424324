"""What heads do with the messages: weighted sums, values, output map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import groups_of, ungrouped
from equiformer_pytorch.layers.linear import block_diagonal
from equiformer_pytorch.ops.heads import HeadPlan, head_sums
from equiformer_pytorch.so3.rows import component_degrees, degree_index

# Entries of the values of all heads in one matrix, zeros between the degrees, up to which that is one product.
NARROW = 2**16


class Heads(ExactConstants):
    r"""Weighted sums of the messages, then value map and output map of each head: :math:`\sum_h O_h V_h \sum_j
    \alpha^h_{ij} m_{ij}`, per degree.

    Both maps act on points, which are fewer than edges. In a narrow layer they are one matrix each, zeros between the
    degrees; otherwise values and output map of a head are multiplied out, a product of weights whose size does not
    depend on the number of points.

    Has no parameters of its own: :meth:`build` takes the values and output maps of the degrees.
    """

    def __init__(
        self, heads: Sequence[int], key_heads: Sequence[int], dim_head: Sequence[int], channels: int, fiber_out: Fiber
    ) -> None:
        super().__init__()
        self.heads, self.key_heads, self.dim_head = list(heads), list(key_heads), list(dim_head)
        self.channels = channels
        values = [h * d * (2 * degree + 1) for degree, (h, d) in enumerate(zip(heads, dim_head, strict=True))]
        self.values = sum(values)
        self.groups = groups_of(list(zip(heads, dim_head, fiber_out, strict=True)))
        self.plan = HeadPlan(tuple(heads), channels, tuple(self.groups))
        self.narrow = self.values * sum(self.plan.sizes()) <= NARROW
        for index, (low, high) in enumerate(self.groups):
            self.constant(f"degree_{index}", component_degrees, low, high)

    def build(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Values and output map of all heads; in a wide layer those of the heads of each group of degrees."""
        values = [
            value.expand(heads, -1, -1) for value, heads in zip(parameters[: len(self.heads)], self.heads, strict=True)
        ]
        outs = parameters[len(self.heads) :]
        if self.narrow:
            return [self._in_one(values), block_diagonal(outs, self.values)]
        by_head = [out.unflatten(0, (heads, -1)) for out, heads in zip(outs, self.heads, strict=True)]
        return [torch.cat(list(matrices[low:high])) for low, high in self.groups for matrices in (values, by_head)]

    def _in_one(self, values: Sequence[Tensor]) -> Float[Tensor, "features values"]:
        """Rows: group of degrees, head, component, channel. Columns: degree, order, head of that degree, channel of the
        head."""
        total, columns, start = sum(self.plan.sizes()), [], 0
        for (low, high), size in zip(self.groups, self.plan.sizes(), strict=True):
            of_head = (high**2 - low**2) * self.channels
            for component, degree in enumerate(degree_index(high - 1)[low**2 :]):
                for head in range(self.heads[low]):
                    before = start + head * of_head + component * self.channels
                    columns.append(F.pad(values[degree][head], (0, 0, before, total - before - self.channels)))
            start += size
        return torch.cat(columns, dim=1)

    def forward(
        self,
        messages: Float[Tensor, "receivers slots components_channels"],
        weights: Float[Tensor, "receivers slots heads"],
        matrices: Sequence[Tensor],
    ) -> Float[Tensor, "receivers width_out"]:
        """The features to add, from messages and weights."""
        summed = head_sums(weights, messages, self.plan)
        if self.narrow:
            values, out = matrices
            return summed @ values @ out
        sizes, outputs = self.plan.sizes(), []
        parts = summed.split(sizes, dim=1) if len(sizes) > 1 else (summed,)
        for index, (part, (low, high)) in enumerate(zip(parts, self.groups, strict=True)):
            of_heads = (
                torch.bmm(matrices[2 * index], matrices[2 * index + 1]).unflatten(0, (high - low, -1)).flatten(1, 2)
            )
            of_components = of_heads.index_select(0, self.get_buffer(f"degree_{index}"))
            by_head = part.view(part.shape[0], self.heads[low], -1, self.channels)
            outputs.append(torch.bmm(by_head.permute(2, 0, 1, 3).flatten(2), of_components))
        return ungrouped(outputs)
