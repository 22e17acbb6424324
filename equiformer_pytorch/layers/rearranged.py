"""Parameters moved to where one large product wants them, all of a model in one gather."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.ops.dispatch import traced

Build = Callable[[Sequence[Tensor]], list[Tensor]]
"""Matrices from parameters: every entry is a parameter's, its negative, or zero."""
Part = tuple[Build, Sequence[Tensor]]
"""Such a function, and the parameters that it takes."""
Matrices = list[list[Tensor]]
"""What the functions of some parts give."""

# Entries of the matrices of a part beyond which they are built anew in every call: of each the plan takes four or five
# bytes.
LARGEST = 2**19


class Rearranged(ExactConstants):
    """What functions make of parameters, all of a model in a few operations.

    Block-diagonal matrices, repeated rows and complex matrices written as real ones have entries that are parameters,
    negated parameters, or zero. Where each comes from is found once, by calling the functions on the numbers of the
    parameters' entries; then a call is one concatenation, one gather and, of those parts that have negatives, one
    product with signs. Large matrices, for which that costs more than it saves, come from the functions themselves,
    with the same result.

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
        negated = [place for place in self.gathered if any(bool((matrix < 0).any()) for matrix in made[place])]
        self.order = [*negated, *(place for place in self.gathered if place not in negated)]
        self.signed = sum(sizes[place] for place in negated)
        self.shapes = {place: [matrix.shape for matrix in made[place]] for place in self.order}
        self.sizes = [shape.numel() for place in self.order for shape in self.shapes[place]]
        self.counts = [shape.numel() for place in self.order for shape in self.given[place]]
        if self.order:
            self.constant("index", self._index)
            self.constant("sign", self._sign)
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
        return torch.cat([matrix.flatten() for matrices in self._numbered(self.order) for matrix in matrices])

    def _index(self) -> Tensor:
        """Zeros are those of an entry behind the parameters."""
        entries = self._entries()
        return (torch.where(entries == 0, sum(self.counts) + 1, entries.abs()) - 1).int()

    def _sign(self) -> Tensor:
        """Of the parts that have negatives, which come first."""
        return self._entries()[: self.signed].sign().to(torch.int8)

    def forward(self, parts: Sequence[Part]) -> Matrices:
        """The matrices of each part; the same functions as at the start, and the parameters of the moment."""
        parameters = [parameter for place in self.order for parameter in parts[place][1]]
        entries: Sequence[Tensor] = ()
        if parameters:
            entries = self.gather(parameters) if traced(*parameters) else _Gathered.apply(self, *parameters)  # pyright: ignore[reportAssignmentType]
        views = iter(entries)
        made = {place: [next(views).view(shape) for shape in self.shapes[place]] for place in self.order}
        return [made[place] if place in made else build(parameters) for place, (build, parameters) in enumerate(parts)]

    def gather(self, parameters: Sequence[Tensor]) -> Sequence[Float[Tensor, " _entries"]]:
        """The entries of each matrix, in the order of the gathered parts, from the parameters in this order."""
        flat = [parameter.reshape(-1) for parameter in parameters]
        entries = torch.cat([*flat, self.zero.to(flat[0].dtype)]).index_select(0, self.index)
        return self.with_signs(entries).split(self.sizes)

    def with_signs(self, entries: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        """The entries times their signs; in place, unless somebody looks on."""
        if torch.is_grad_enabled() or traced(entries):
            signed, others = entries.tensor_split([self.signed])
            return torch.cat((signed * self.sign, others))
        entries[: self.signed].mul_(self.sign)
        return entries


class _Gathered(torch.autograd.Function):
    """Of :meth:`Rearranged.gather`; derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, plan: Rearranged, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.plan = plan
        ctx.shapes = [parameter.shape for parameter in parameters]
        return tuple(plan.gather(parameters))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        plan = ctx.plan
        slope = plan.with_signs(torch.cat([of_matrix.reshape(-1) for of_matrix in slopes]))
        found = slope.new_zeros(sum(plan.counts) + 1).index_add_(0, plan.index, slope)[:-1].split(plan.counts)
        return None, *(part.view(shape) for part, shape in zip(found, ctx.shapes, strict=True))


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
