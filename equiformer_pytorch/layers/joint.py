"""Several per-degree maps of one feature at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear, block_diagonal
from equiformer_pytorch.ops.components import component_products

# Entries of a block-diagonal matrix of all degrees up to which it is one product; beyond, zeros cost too much.
NARROW = 2**15

Arrange = Callable[[Tensor], Tensor]
"""Of the columns of a map, for all degrees and orders: repeated, moved, spaced out with zeros."""


def is_narrow(fiber_in: Fiber, fibers_out: Sequence[Fiber]) -> bool:
    """Whether maps between these are best one product."""
    return fiber_in.width * sum(fiber.width for fiber in fibers_out) <= NARROW


class _Maps(ExactConstants):
    """Has no parameters of its own: :meth:`build` takes those of the maps, for :class:`~.rearranged.Rearranged`."""

    def __init__(self, maps: Sequence[Linear | nn.Linear]) -> None:
        super().__init__()
        self.maps = tuple(maps)  # they belong to the layer that owns this
        self.fiber_in = next(linear.fiber_in for linear in maps if isinstance(linear, Linear))
        self.has_bias = any(linear.bias is not None for linear in maps)
        self.fibers = [Fiber((m.out_features,)) if isinstance(m, nn.Linear) else m.fiber_out for m in maps]

    def parameters_in_order(self) -> list[Tensor]:
        """Those of the maps, one after the other."""
        found: list[Tensor] = []
        for linear in self.maps:
            found += [linear.weight] if isinstance(linear, nn.Linear) else linear.weights
            found += [] if linear.bias is None else [linear.bias]
        return found

    def _weights(self, parameters: Sequence[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
        """The matrices of the degrees and the bias of each map."""
        given, found = list(parameters), []
        for linear, fiber in zip(self.maps, self.fibers, strict=True):
            weights = [given.pop(0).mT] if isinstance(linear, nn.Linear) else [given.pop(0) for _ in fiber]
            bias = weights[0].new_zeros(fiber[0]) if linear.bias is None else given.pop(0)
            found.append((weights, bias))
        return found


class JointProduct(_Maps):
    """Per-degree maps of a narrow feature as one product with one matrix, zeros between the degrees.

    Args:
        maps: what is applied; an ``nn.Linear`` is a map of degree 0.
        arrange: how to arrange the columns of some maps, by place.
    """

    def __init__(self, maps: Sequence[Linear | nn.Linear], arrange: Mapping[int, Arrange] | None = None) -> None:
        super().__init__(maps)
        self.arrange = dict(arrange or {})
        blank = [torch.zeros(1, fiber.width, device="cpu") for fiber in self.fibers]
        self.widths = [self._arranged(place, columns).shape[1] for place, columns in enumerate(blank)]

    def build(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The joint matrix and, where a map has a bias, the joint bias."""
        columns = []
        for place, (weights, bias) in enumerate(self._weights(parameters)):
            matrix = block_diagonal(weights, self.fiber_in.width)
            both = torch.cat((matrix, F.pad(bias, (0, self.fibers[place].width - len(bias)))[None]))
            columns.append(self._arranged(place, both))
        joint = torch.cat(columns, dim=1)
        return [joint[:-1], joint[-1]] if self.has_bias else [joint[:-1]]

    def _arranged(self, place: int, columns: Float[Tensor, "rows width"]) -> Float[Tensor, "rows arranged"]:
        return self.arrange[place](columns) if place in self.arrange else columns

    def forward(
        self, x: Float[Tensor, "points width_in"], matrices: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "points _arranged"], ...]:
        """The maps of x with the matrices of :meth:`build`."""
        matrix, *bias = matrices
        joint = torch.addmm(bias[0], x, matrix) if bias else x @ matrix
        return joint.split(self.widths, dim=1) if len(self.widths) > 1 else (joint,)


class Mapped(NamedTuple):
    """What a map gives in :class:`JointProducts`."""

    groups: list[Float[Tensor, "points _components _channels"]]
    """Of the degrees of each group."""
    besides: Float[Tensor, "points channels"]
    """Further channels of degree 0."""

    def rows(self) -> Float[Tensor, "points components channels"]:
        """All degrees, where all have the same channels."""
        return torch.cat(self.groups, dim=1) if len(self.groups) > 1 else self.groups[0]


class JointProducts(_Maps):
    """Per-degree maps of a wide feature: one batched product for each group of degrees that have the same channels.

    Args:
        maps: what is applied; an ``nn.Linear`` is a map of degree 0.
        besides: for some maps, by place, how many channels of degree 0 are the map's own, and which ranges of channels
            come beside its degrees; an ``nn.Linear`` comes so as a whole.
        shapes: of each degree, equal where degrees may share a product; by default their channels.
    """

    def __init__(
        self,
        maps: Sequence[Linear | nn.Linear],
        besides: Mapping[int, tuple[int, Sequence[tuple[int, int]]]] | None = None,
        *,
        shapes: Sequence[object] | None = None,
    ) -> None:
        super().__init__(maps)
        self.kept, self.ranges = [], []
        for place, (linear, fiber) in enumerate(zip(maps, self.fibers, strict=True)):
            whole = (0, [(0, fiber[0])]) if isinstance(linear, nn.Linear) else (fiber[0], [])
            kept, ranges = (besides or {}).get(place, whole)
            self.kept.append(kept)
            self.ranges.append(list(ranges))
        self.besides = [sum(end - first for first, end in ranges) for ranges in self.ranges]
        channels = [
            (c, [self._channels(k, degree) for k in range(len(maps))]) for degree, c in enumerate(self.fiber_in)
        ]
        self.groups = groups_of(channels if shapes is None else shapes)
        self.group_sizes = [sum(self.fiber_in.sizes[low:high]) for low, high in self.groups]
        # Where degree 0 is a group of its own, what comes besides is a part of its product.
        self.apart = sum(self.besides) > 0 and self.groups[0] != (0, 1)

    def _channels(self, place: int, degree: int) -> int:
        """Channels of a degree that are not besides."""
        fiber = self.fibers[place]
        return 0 if degree >= len(fiber) else self.kept[place] if degree == 0 else fiber[degree]

    def _widths(self, low: int) -> list[int]:
        return [self._channels(place, low) for place in range(len(self.maps))]

    def build(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Matrix and bias of what comes besides, if that is a product of its own; bias of the first group; for each
        group one matrix for each of its components. Biases are there if a map has one."""
        given = self._weights(parameters)
        beside = [weights[0][:, a:b] for (weights, _), of in zip(given, self.ranges, strict=True) for a, b in of]
        beside_bias = [bias[a:b] for (_, bias), of in zip(given, self.ranges, strict=True) for a, b in of]
        bias = [bias[:kept] for (_, bias), kept in zip(given, self.kept, strict=True)]
        found = []
        if self.apart:
            found = [torch.cat(beside, dim=1), *([torch.cat(beside_bias)] if self.has_bias else [])]
            beside, beside_bias = [], []
        if self.has_bias:
            components = self.groups[0][1] ** 2
            found.append(F.pad(torch.cat([*bias, *beside_bias])[None, None], (0, 0, 0, components - 1)))
        for low, high in self.groups:
            of_degrees = []
            for degree in range(low, high):
                parts = [
                    weights[degree][:, : self._channels(place, degree)]
                    for place, (weights, _) in enumerate(given)
                    if self._channels(place, degree)
                ]
                parts += beside if degree == 0 else []
                of_degree = torch.cat(parts, dim=1) if parts else given[0][0][0].new_zeros(self.fiber_in[degree], 0)
                of_degrees.append(of_degree.expand(2 * degree + 1, -1, -1))
            found.append(torch.cat(of_degrees))
        return found

    def split(self, x: Float[Tensor, "points width_in"]) -> list[Float[Tensor, "points _components _channels"]]:
        """A view of each group."""
        parts = x.split(self.group_sizes, dim=1) if len(self.groups) > 1 else (x,)
        return [part.unflatten(1, (-1, self.fiber_in[low])) for part, (low, _) in zip(parts, self.groups, strict=True)]

    def forward(
        self, groups: Sequence[Float[Tensor, "points _components _channels"]], matrices: Sequence[Tensor]
    ) -> list[Mapped]:
        """The maps of the groups of a feature, with the matrices of :meth:`build`."""
        given = list(matrices)
        beside = given.pop(0) if self.apart else None
        beside_bias = given.pop(0) if self.apart and self.has_bias else None
        bias = given.pop(0) if self.has_bias else None
        none = groups[0][:, 0, :0]
        found: list[list[Tensor]] = [[] for _ in self.maps]
        besides: Sequence[Tensor] = ()
        for group, matrix, (low, _) in zip(groups, given, self.groups, strict=True):
            widths = self._widths(low)
            if low == 0:
                mapped, others = component_products(group, matrix, bias, beside, beside_bias)
                parts = _split(mapped, widths if self.apart else [*widths, *self.besides], 2)
                own = [part.squeeze(1) for part in parts[sum(width > 0 for width in widths) :]]
                besides = own if others is None else _split(others, self.besides, 1)
            elif sum(widths):
                parts = _split(component_products(group, matrix)[0], widths, 2)
            else:
                continue
            rest = iter(parts)
            for of_map, width in zip(found, widths, strict=True):
                if width:
                    of_map.append(next(rest))
        others = iter(besides)
        return [Mapped(of_map, next(others) if k else none) for of_map, k in zip(found, self.besides, strict=True)]


def _split(x: Tensor, widths: Sequence[int], dim: int) -> Sequence[Tensor]:
    """The parts that have a width."""
    widths = [width for width in widths if width]
    return x.split(widths, dim=dim) if len(widths) > 1 else (x,)


def groups_of(shapes: Sequence[object]) -> list[tuple[int, int]]:
    """Ranges (first, end) of consecutive degrees with equal entries."""
    groups = [[0, 1]]
    for degree in range(1, len(shapes)):
        if shapes[degree] == shapes[degree - 1]:
            groups[-1][1] = degree + 1
        else:
            groups.append([degree, degree + 1])
    return [(low, high) for low, high in groups]


def ungrouped(groups: Sequence[Float[Tensor, "points _components _channels"]]) -> Float[Tensor, "points width"]:
    """One feature, degree-major, of its groups."""
    flat = [group.flatten(1) for group in groups]
    return torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]
