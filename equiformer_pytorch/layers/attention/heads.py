"""What heads do with the messages: weighted sums, values, output map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.joint import ungrouped
from equiformer_pytorch.layers.linear import block_diagonal
from equiformer_pytorch.ops.components import component_products
from equiformer_pytorch.ops.heads import HeadPlan

# Entries of the values of all heads in one matrix, zeros between the degrees, up to which that is one product.
NARROW = 2**16


def is_dense(heads: Sequence[int], dim_head: Sequence[int], channels: int) -> bool:
    """Whether the values of all heads may be one matrix."""
    values = sum(h * d * (2 * degree + 1) for degree, (h, d) in enumerate(zip(heads, dim_head, strict=True)))
    return values * sum(heads) * len(heads) ** 2 * channels <= NARROW


class Heads(nn.Module):
    r"""Weighted sums of the messages, then value map and output map of each head: :math:`\sum_h O_h V_h \sum_j
    \alpha^h_{ij} m_{ij}`, per degree.

    Both maps act on points, which are fewer than edges. In a narrow layer they are one matrix each, zeros between the
    degrees; otherwise values and output map of a head are multiplied out, a product of weights whose size does not
    depend on the number of points.

    Has no parameters of its own: :meth:`build` takes the values and output maps of the degrees.

    Args:
        heads, key_heads, dim_head: of each degree: heads, those that have keys and values of their own, and their
            channels.
        plan: which degrees the heads are of.
        dense: both maps are one matrix each, see :func:`is_dense`.
    """

    def __init__(
        self, heads: Sequence[int], key_heads: Sequence[int], dim_head: Sequence[int], plan: HeadPlan, *, dense: bool
    ) -> None:
        super().__init__()
        self.heads, self.key_heads, self.dim_head = list(heads), list(key_heads), list(dim_head)
        self.plan, self.dense = plan, dense
        self.channels = plan.channels // len(heads) ** 2 if dense else plan.channels

    def build(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Values and output map of all heads; in a wide layer those of each component of each group of degrees."""
        values = [
            value.expand(heads, -1, -1) for value, heads in zip(parameters[: len(self.heads)], self.heads, strict=True)
        ]
        outs = parameters[len(self.heads) :]
        if self.dense:
            matrix = self._in_one(values)
            return [matrix, block_diagonal(outs, matrix.shape[1])]
        by_head = [out.unflatten(0, (heads, -1)) for out, heads in zip(outs, self.heads, strict=True)]
        return [
            torch.cat([matrices[degree] for degree in range(low, high) for _ in range(2 * degree + 1)])
            for low, high in self.plan.groups
            for matrices in (values, by_head)
        ]

    def _in_one(self, values: Sequence[Tensor]) -> Float[Tensor, "features values"]:
        """Rows: head, component, channel. Columns: degree, order, head of that degree, channel of the head."""
        components, columns, first = len(self.heads) ** 2, [], 0
        for degree, of_degree in enumerate(values):
            for component in range(degree**2, (degree + 1) ** 2):
                for head, value in enumerate(of_degree, start=first):
                    before = (head * components + component) * self.channels
                    after = sum(self.plan.sizes()) - before - self.channels
                    columns.append(F.pad(value, (0, 0, before, after)))
            first += self.heads[degree]
        return torch.cat(columns, dim=1)

    def forward(
        self, summed: Float[Tensor, "receivers features"], matrices: Sequence[Tensor]
    ) -> Float[Tensor, "receivers width_out"]:
        """The features to add, from the sums of the messages."""
        if self.dense:
            values, out = matrices
            return summed @ values @ out
        sizes, outputs = self.plan.sizes(), []
        parts = summed.split(sizes, dim=1) if len(sizes) > 1 else (summed,)
        for index, (part, (low, high)) in enumerate(zip(parts, self.plan.groups, strict=True)):
            components = high**2 - low**2
            of_heads = torch.bmm(matrices[2 * index], matrices[2 * index + 1])
            of_components = of_heads.unflatten(0, (components, self.heads[low])).flatten(1, 2)
            by_head = part.view(part.shape[0], self.heads[low], components, self.channels)
            outputs.append(component_products(by_head.transpose(1, 2).flatten(2), of_components)[0])
        return ungrouped(outputs)
