"""Parameters moved to where one large product wants them, all of a layer in one gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants

Build = Callable[[Sequence[Tensor]], list[Tensor]]
"""Matrices from parameters: every entry is a parameter's, its negative, or zero."""

# Entries of all matrices beyond which they are built anew in every call: the plan takes five bytes for each.
LARGEST = 2**20


class Rearranged(ExactConstants):
    """What functions make of parameters, several matrices from each, in three operations.

    Block-diagonal matrices, repeated rows and complex matrices written as real ones have entries that are parameters,
    negated parameters, or zero. Where each comes from is found once, by calling the functions on the numbers of the
    parameters' entries; then a call is one concatenation, one gather and, if there are negatives, one product with
    signs. Large matrices, for which that costs more than it saves, come from the functions themselves, with the same
    result.

    Has no parameters of its own, and nothing in the state dict.

    Args:
        parts: a function and the parameters that it takes, several of these.
    """

    index: Tensor
    sign: Tensor
    zero: Tensor

    def __init__(self, parts: Sequence[tuple[Build, Sequence[Tensor]]]) -> None:
        super().__init__()
        self.builds = [build for build, _ in parts]
        self.given = [[parameter.shape for parameter in parameters] for _, parameters in parts]
        made = self._numbered()
        self.counts = [len(matrices) for matrices in made]
        self.shapes = [matrix.shape for matrices in made for matrix in matrices]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.gathered = sum(self.sizes) <= LARGEST
        self.negated = any(bool((matrix < 0).any()) for matrices in made for matrix in matrices)
        if self.gathered:
            self.constant("index", self._index)
            if self.negated:
                self.constant("sign", self._sign)
            else:
                self.constant("zero", torch.zeros, 1)

    def _numbered(self) -> list[list[Tensor]]:
        """The matrices of parameters whose entries are 1, 2, 3 …"""
        made, first = [], 1
        with torch.device("cpu"):
            for build, shapes in zip(self.builds, self.given, strict=True):
                numbers = []
                for shape in shapes:
                    numbers.append(torch.arange(first, first + shape.numel(), dtype=torch.float64).view(shape))
                    first += shape.numel()
                made.append(build(numbers))
        return made

    def _entries(self) -> Tensor:
        return torch.cat([matrix.flatten() for matrices in self._numbered() for matrix in matrices])

    def _index(self) -> Tensor:
        """Zeros are the sign's where there is one, else those of an entry behind the parameters."""
        entries, count = self._entries(), sum(shape.numel() for shapes in self.given for shape in shapes)
        return (torch.where(entries == 0, 1 if self.negated else count + 1, entries.abs()) - 1).int()

    def _sign(self) -> Tensor:
        return self._entries().sign().to(torch.int8)

    def forward(self, parts: Sequence[tuple[Build, Sequence[Tensor]]]) -> list[list[Tensor]]:
        """The matrices of each function; the same functions as at the start, and the parameters of the moment."""
        if not self.gathered:
            return [build(parameters) for build, parameters in parts]
        flat = [parameter.reshape(-1) for _, parameters in parts for parameter in parameters]
        if self.negated:
            entries = torch.cat(flat).index_select(0, self.index) * self.sign
        else:
            entries = torch.cat([*flat, self.zero.to(flat[0].dtype)]).index_select(0, self.index)
        matrices = [part.view(shape) for part, shape in zip(entries.split(self.sizes), self.shapes, strict=True)]
        grouped, first = [], 0
        for count in self.counts:
            grouped.append(matrices[first : first + count])
            first += count
        return grouped
