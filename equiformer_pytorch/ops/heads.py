"""Products of the heads of each degree with its components: sums of messages, and logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import operation, written_out

WEIGHTS, MESSAGES, FEATURES = range(3)


class HeadPlan(NamedTuple):
    """Where heads and components of each degree lie: those of messages component by component, those of features of
    heads group by group of degrees, (head, component of the group, channel)."""

    heads: tuple[int, ...]
    """Of each degree."""
    channels: int
    groups: tuple[tuple[int, int], ...]
    """Ranges (first, end) of degrees with as many heads."""

    def sizes(self) -> list[int]:
        """How many columns the features of each group have."""
        return [self.heads[low] * (high**2 - low**2) * self.channels for low, high in self.groups]

    def widths(self) -> tuple[int, int, int]:
        """Columns of weights, messages and features."""
        return sum(self.heads), len(self.heads) ** 2 * self.channels, sum(self.sizes())

    def doubled(self) -> HeadPlan:
        """Of two heads in the place of each."""
        return self._replace(heads=tuple(2 * heads for heads in self.heads))

    def paired(
        self, one: Float[Tensor, "receivers features"], other: Float[Tensor, "receivers features"]
    ) -> Float[Tensor, "receivers two_features"]:
        """The features of one and other heads in turn, for :meth:`doubled`."""
        pairs, start = [], 0
        for (low, _), size in zip(self.groups, self.sizes(), strict=True):
            heads = self.heads[low]
            parts = [x.narrow(1, start, size).reshape(x.shape[0], heads, size // heads) for x in (one, other)]
            pairs.append(torch.stack(parts, dim=2).reshape(one.shape[0], 2 * size))
            start += size
        return _side_by_side(pairs)

    def views(self, *factors: Tensor | None) -> Iterator[list[Tensor | None]]:
        """Of weights, messages and features, where given, those of one degree after the other: (receivers, slots,
        heads), (receivers, slots, columns), (receivers, heads, columns)."""
        weights, messages, features = factors
        first = start = 0
        for (low, high), size in zip(self.groups, self.sizes(), strict=True):
            of_group = None
            if features is not None:
                heads = self.heads[low]
                of_group = features.narrow(1, start, size).view(features.shape[0], heads, size // heads)
            for degree in range(low, high):
                # By narrow, since batches of gradients (legacy vmap) have no rule for a slice of everything.
                begin, columns = degree**2 * self.channels, (2 * degree + 1) * self.channels
                before = low**2 * self.channels
                yield [
                    None if weights is None else weights.narrow(2, first, self.heads[low]),
                    None if messages is None else messages.narrow(2, begin, columns),
                    None if of_group is None else of_group.narrow(2, begin - before, columns),
                ]
                first += self.heads[low]
            start += size


@operation
def head_sums(
    weights: Float[Tensor, "receivers slots heads"],
    messages: Float[Tensor, "receivers slots components_channels"],
    plan: HeadPlan,
) -> Float[Tensor, "receivers features"]:
    r""":math:`\sum_j \alpha^h_j m_{jc}`, the components c of its degree for each head h; derivatives of any order."""
    return contracted(FEATURES, plan, weights, messages)


@operation
def head_products(
    messages: Float[Tensor, "receivers slots components_channels"],
    features: Float[Tensor, "receivers features"],
    plan: HeadPlan,
) -> Float[Tensor, "receivers slots heads"]:
    r""":math:`\sum_c m_{jc} q^h_c` over the components c of a head's degree; derivatives of any order."""
    return contracted(WEIGHTS, plan, messages, features)


def contracted(wanted: int, plan: HeadPlan, first: Tensor, second: Tensor) -> Tensor:
    r"""The derivative of :math:`\sum \alpha_{jh} m_{jc} q_{hc}` by one of the three, from the other two in this order;
    those of it are such derivatives again."""
    if written_out(first, second):
        return _put_together(wanted, plan, first, second)
    return _Contraction.apply(wanted, plan, first, second)  # pyright: ignore[reportReturnType]


def _factors(wanted: int, first: Tensor | None, second: Tensor | None, own: Tensor | None) -> list[Tensor | None]:
    """Weights, messages and features of what is given and what is wanted."""
    found = [first, second]
    found.insert(wanted, own)
    return found


def _pair(wanted: int, views: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """The two matrices whose product is wanted, of one degree."""
    weights, messages, features = views
    if wanted == WEIGHTS:
        return messages, features.mT  # pyright: ignore[reportReturnType, reportOptionalMemberAccess]
    if wanted == MESSAGES:
        return weights, features  # pyright: ignore[reportReturnType]
    return weights.mT, messages  # pyright: ignore[reportReturnType, reportOptionalMemberAccess]


def _put_together(wanted: int, plan: HeadPlan, first: Tensor, second: Tensor) -> Tensor:
    """In plain operations."""
    found = [torch.bmm(*_pair(wanted, views)) for views in plan.views(*_factors(wanted, first, second, None))]
    if wanted == FEATURES:
        parts = [_side_by_side(found[low:high]) for low, high in plan.groups]
        found = [part.reshape(part.shape[0], part.shape[1] * part.shape[2]) for part in parts]
    return _side_by_side(found)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """The columns of all parts."""
    return torch.cat(list(parts), dim=-1) if len(parts) > 1 else parts[0]


class _Contraction(torch.autograd.Function):
    """Keeps the arguments alone, and has no gradients of parts to be put together."""

    @staticmethod
    def forward(ctx: Any, wanted: int, plan: HeadPlan, first: Tensor, second: Tensor) -> Tensor:
        ctx.wanted, ctx.plan = wanted, plan
        ctx.save_for_backward(first, second)
        return _put_together(wanted, plan, first, second)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        first, second = ctx.saved_tensors
        places = [place for place in range(3) if place != ctx.wanted]
        slope, found = slopes[0], []
        for place, other, value in ((places[0], places[1], second), (places[1], places[0], first)):
            if not ctx.needs_input_grad[2 + places.index(place)]:
                found.append(None)
                continue
            given = {ctx.wanted: slope, other: value}
            found.append(contracted(place, ctx.plan, *(given[k] for k in sorted(given))))
        return None, None, *found
