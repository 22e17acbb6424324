"""What heads do with the messages: weighted sums, values, output map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import groups_of, ungrouped
from equiformer_pytorch.layers.linear import block_diagonal
from equiformer_pytorch.so3.rows import component_degrees, degree_index

# Entries of the values of all heads in one matrix, zeros between the degrees, up to which that is one product.
NARROW = 2**16


def own_components(heads: Sequence[int]) -> Int[Tensor, " pairs"]:
    """Component by component the heads of its degree, as places among (all heads, all components)."""
    first = [sum(heads[:degree]) for degree in range(len(heads))]
    return torch.tensor(
        [
            (first[degree] + head) * len(heads) ** 2 + component
            for component, degree in enumerate(degree_index(len(heads) - 1))
            for head in range(heads[degree])
        ]
    )


class Heads(ExactConstants):
    r"""Weighted sums of the messages, then value map and output map of each head: :math:`\sum_h O_h V_h \sum_j
    \alpha^h_{ij} m_{ij}`, per degree.

    All heads sum all columns, in one product; what is not of their degree is left aside. Both maps act on points,
    which are fewer than edges. In a narrow layer values are one matrix, in which what is left aside meets zeros;
    otherwise values and output map of a head are multiplied out, a product of weights whose size does not depend on
    the number of points.

    Has no parameters of its own: :meth:`build` takes the values and output maps of the degrees.
    """

    pairs: Tensor

    def __init__(
        self, heads: Sequence[int], key_heads: Sequence[int], dim_head: Sequence[int], channels: int, fiber_out: Fiber
    ) -> None:
        super().__init__()
        self.heads, self.key_heads, self.dim_head = list(heads), list(key_heads), list(dim_head)
        self.channels = channels
        self.components = len(heads) ** 2
        values = [h * d * (2 * degree + 1) for degree, (h, d) in enumerate(zip(heads, dim_head, strict=True))]
        self.values = sum(values)
        self.narrow = sum(heads) * self.components * channels * self.values <= NARROW
        self.groups = groups_of(list(zip(heads, dim_head, fiber_out, strict=True)))
        self.constant("pairs", own_components, tuple(heads))
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

    def _in_one(self, values: Sequence[Tensor]) -> Float[Tensor, "heads_components_channels values"]:
        """Rows: head, component, channel. Columns: degree, order, head of that degree, channel of the head."""
        total, columns, head = self.components * self.channels, [], 0
        for degree, of_degree in enumerate(values):
            for order in range(2 * degree + 1):
                for k in range(self.heads[degree]):
                    before = (head + k) * total + (degree**2 + order) * self.channels
                    after = sum(self.heads) * total - before - self.channels
                    columns.append(F.pad(of_degree[k], (0, 0, before, after)))
            head += self.heads[degree]
        return torch.cat(columns, dim=1)

    def forward(
        self,
        messages: Float[Tensor, "receivers slots components_channels"],
        weights: Float[Tensor, "receivers slots heads"],
        matrices: Sequence[Tensor],
    ) -> Float[Tensor, "receivers width_out"]:
        """The features to add, from messages and weights."""
        summed = torch.bmm(weights.mT, messages)
        if self.narrow:
            values, out = matrices
            return summed.flatten(1) @ values @ out
        pairs = summed.view(summed.shape[0], -1, self.channels).index_select(1, self.pairs)
        sizes = [(high**2 - low**2) * self.heads[low] for low, high in self.groups]
        outputs = []
        parts = pairs.split(sizes, dim=1) if len(sizes) > 1 else (pairs,)
        for index, (part, (low, high)) in enumerate(zip(parts, self.groups, strict=True)):
            of_heads = (
                torch.bmm(matrices[2 * index], matrices[2 * index + 1]).unflatten(0, (high - low, -1)).flatten(1, 2)
            )
            of_components = of_heads.index_select(0, self.get_buffer(f"degree_{index}"))
            by_component = part.unflatten(1, (-1, self.heads[low])).flatten(2).transpose(0, 1)
            outputs.append(torch.bmm(by_component, of_components))
        return ungrouped(outputs)
