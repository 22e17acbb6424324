"""Parameters moved to where one large product wants them, all of a model in one gather."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants

Build = Callable[[Sequence[Tensor]], list[Tensor]]
"""Matrices from parameters: every entry is a parameter's, its negative, or zero."""
Part = tuple[Build, Sequence[Tensor]]
"""Such a function, and the parameters that it takes."""
Matrices = list[list[Tensor]]
"""What the functions of some parts give."""

# Entries of the matrices of a part beyond which they are built anew in every call: the plan takes five bytes for each.
LARGEST = 2**18


class Rearranged(ExactConstants):
    """What functions make of parameters, all of a model in a few operations.

    Block-diagonal matrices, repeated rows and complex matrices written as real ones have entries that are parameters,
    negated parameters, or zero. Where each comes from is found once, by calling the functions on the numbers of the
    parameters' entries; then a call is one concatenation, one gather and, if there are negatives, one product with
    signs. Large matrices, for which that costs more than it saves, come from the functions themselves, with the same
    result.

    Has no parameters of its own, and nothing in the state dict.

    Args:
        parts: the functions, and parameters of the shapes that they take.
    """

    index: Tensor
    sign: Tensor
    zero: Tensor

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.builds = [build for build, _ in parts]
        self.given = [[parameter.shape for parameter in parameters] for _, parameters in parts]
        made = self._numbered(range(len(parts)))
        sizes = [sum(matrix.numel() for matrix in matrices) for matrices in made]
        self.gathered = [place for place, size in enumerate(sizes) if size <= LARGEST]
        self.shapes = {place: [matrix.shape for matrix in made[place]] for place in self.gathered}
        self.sizes = [shape.numel() for place in self.gathered for shape in self.shapes[place]]
        self.negated = any(bool((matrix < 0).any()) for place in self.gathered for matrix in made[place])
        if self.gathered:
            self.constant("index", self._index)
            if self.negated:
                self.constant("sign", self._sign)
            else:
                self.constant("zero", torch.zeros, 1)

    def _numbered(self, places: Sequence[int]) -> Matrices:
        """The matrices of parameters whose entries are 1, 2, 3 …"""
        made, first = [], 1
        with torch.device("cpu"):
            for place in places:
                numbers = []
                for shape in self.given[place]:
                    numbers.append(torch.arange(first, first + shape.numel(), dtype=torch.float64).view(shape))
                    first += shape.numel()
                made.append(self.builds[place](numbers))
        return made

    def _entries(self) -> Tensor:
        return torch.cat([matrix.flatten() for matrices in self._numbered(self.gathered) for matrix in matrices])

    def _index(self) -> Tensor:
        """Zeros are the sign's where there is one, else those of an entry behind the parameters."""
        entries = self._entries()
        count = sum(shape.numel() for place in self.gathered for shape in self.given[place])
        return (torch.where(entries == 0, 1 if self.negated else count + 1, entries.abs()) - 1).int()

    def _sign(self) -> Tensor:
        return self._entries().sign().to(torch.int8)

    def forward(self, parts: Sequence[Part]) -> Matrices:
        """The matrices of each part; the same functions as at the start, and the parameters of the moment."""
        if not self.gathered:
            return [build(parameters) for build, parameters in parts]
        flat = [parameter.reshape(-1) for place in self.gathered for parameter in parts[place][1]]
        if self.negated:
            entries = torch.cat(flat).index_select(0, self.index) * self.sign
        else:
            entries = torch.cat([*flat, self.zero.to(flat[0].dtype)]).index_select(0, self.index)
        views = iter(entries.split(self.sizes))
        return [
            [next(views).view(shape) for shape in self.shapes[place]] if place in self.shapes else build(parameters)
            for place, (build, parameters) in enumerate(parts)
        ]


class TakesMatrices(ExactConstants, ABC):
    """A layer that takes its parameters as matrices, which a model makes for all its layers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.rearranged: Rearranged | None = None

    @abstractmethod
    def parts(self) -> list[Part]:
        """What the matrices are made with."""

    def rearrange(self) -> None:
        """Have a plan of its own, for where the layer makes its matrices by itself time and again."""
        self.rearranged = Rearranged(self.parts())

    def own_matrices(self) -> Matrices:
        """Of the parameters of the moment, for a call of this layer alone."""
        parts = self.parts()
        return [build(parameters) for build, parameters in parts] if self.rearranged is None else self.rearranged(parts)
