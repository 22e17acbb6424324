"""Parameters moved to where one large product wants them, all of a layer in one gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Build = Callable[[Sequence[Tensor]], list[Tensor]]
"""Matrices from parameters: every entry is a parameter's, its negative, or zero."""

# Entries of all matrices beyond which they are built anew in every call: the plan takes five bytes for each.
LARGEST = 2**20


class Rearranged(nn.Module):
    """What functions make of parameters, several matrices from each, in three operations.

    Block-diagonal matrices, repeated rows and complex matrices written as real ones have entries that are parameters,
    negated parameters, or zero. Where each comes from is found once, by calling the functions on the numbers of the
    parameters' entries; then a call is one concatenation, one gather and one product with signs. Large matrices, for
    which that costs more than it saves, come from the functions themselves, with the same result.

    Has no parameters of its own, and nothing in the state dict.

    Args:
        parts: a function and the parameters that it takes, several of these.
    """

    index: Tensor | None
    sign: Tensor | None
    zero: Tensor

    def __init__(self, parts: Sequence[tuple[Build, Sequence[Tensor]]]) -> None:
        super().__init__()
        self.counts: list[int] = []
        self.shapes: list[torch.Size] = []
        found, first = [], 1
        for build, parameters in parts:
            numbers = []
            for p in parameters:
                numbers.append(torch.arange(first, first + p.numel(), dtype=torch.float64, device="cpu").view(p.shape))
                first += p.numel()
            matrices = build(numbers)
            self.counts.append(len(matrices))
            self.shapes += [matrix.shape for matrix in matrices]
            found += [matrix.flatten() for matrix in matrices]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.register_buffer("index", None, persistent=False)
        self.register_buffer("sign", None, persistent=False)
        self.register_buffer("zero", torch.zeros(1), persistent=False)
        if sum(self.sizes) <= LARGEST:
            entries = torch.cat(found)
            negated = bool((entries < 0).any())
            # Zeros are the sign's where there is one, else those of an entry behind the parameters.
            index = torch.where(entries == 0, 1 if negated else first, entries.abs()) - 1
            self.index = index.int()
            self.sign = entries.sign().to(torch.int8) if negated else None

    def forward(self, parts: Sequence[tuple[Build, Sequence[Tensor]]]) -> list[list[Tensor]]:
        """The matrices of each function; the same functions as at the start, and the parameters of the moment."""
        if self.index is None:
            return [build(parameters) for build, parameters in parts]
        flat = [p.reshape(-1) for _, parameters in parts for p in parameters]
        if self.sign is None:
            entries = torch.cat([*flat, self.zero.to(flat[0].dtype)]).index_select(0, self.index)
        else:
            entries = torch.cat(flat).index_select(0, self.index) * self.sign
        matrices = [part.view(shape) for part, shape in zip(entries.split(self.sizes), self.shapes, strict=True)]
        grouped, first = [], 0
        for count in self.counts:
            grouped.append(matrices[first : first + count])
            first += count
        return grouped
