"""Ragged groups as a rectangle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from equiformer_pytorch.base.tracing import exporting, number_from_data


def group_bounds(group: Int[Tensor, " members"], groups: int) -> Int[Tensor, " groups_and_one"]:
    """Where each group begins among members sorted by group, and where the last one ends."""
    return torch.searchsorted(group.contiguous(), torch.arange(groups + 1, device=group.device))


def _bounds(sizes: Int[Tensor, " groups"]) -> tuple[int, int]:
    """Least and most; of an exported program it is known only that there is a column."""
    if sizes.shape[0] == 0:
        return 0, 0
    if exporting():
        return 0, number_from_data(sizes.max().clamp(min=1), least=1)
    least, most = torch.stack(sizes.aminmax()).tolist()
    return least, most


@dataclass(frozen=True)
class Table:
    """Ragged groups as a rectangle: row g lists the members of group g, then padding.

    `index` is None when every group has `columns` members in a row, so that the rectangle is a view.
    """

    rows: int
    columns: int
    index: Int[Tensor, "rows columns"] | None = None
    mask: Bool[Tensor, "rows columns"] | None = None
    empty: Bool[Tensor, " rows"] | None = None
    """Which groups have no members; None when all have some."""

    member: Int[Tensor, " members"] | None = None
    """Where each member is in the flattened rectangle; None when they follow each other."""

    @classmethod
    def from_groups(cls, group: Int[Tensor, " members"], groups: int, known: tuple[int, int] | None = None) -> Table:
        """Of members sorted by group.

        Args:
            known: bounds of the sizes of the groups, where the caller knows them; else they are looked for. In an
                exported program they are known only when it runs, and it is never a view.
        """
        if known is not None and group.numel() == groups * known[1]:
            return cls(groups, known[1])
        bounds = group_bounds(group, groups)
        first, sizes = bounds[:-1], bounds.diff()
        if known is None:
            known = _bounds(sizes)
        least, columns = known
        if not exporting() and columns * groups == group.numel():
            return cls(groups, columns)
        column = torch.arange(columns, device=group.device)
        mask = column < sizes[:, None]
        padding = first.clamp(max=group.numel() - 1)[:, None]
        empty = sizes == 0
        return cls(
            groups,
            columns,
            torch.where(mask, first[:, None] + column, padding),
            mask,
            empty if least == 0 else None,
            torch.arange(group.numel(), device=group.device) + (group * columns - first[group]),
        )

    def spread(self, members: Shaped[Tensor, "members ..."]) -> Shaped[Tensor, "rows columns ..."]:
        """Members in their places. The padding, to be masked, holds copies of the group's first member, zeros where
        it has none: so groups stay apart, even where one holds NaN."""
        if self.index is None:
            return members.unflatten(0, (self.rows, self.columns))
        if exporting() and self.member is not None:  # there may be no member at all to fill a column with
            places = members.new_zeros(self.rows * self.columns, *members.shape[1:])
            return places.index_copy(0, self.member, members).unflatten(0, (self.rows, self.columns))
        spread = members.index_select(0, self.index.flatten()).unflatten(0, (self.rows, self.columns))
        if self.empty is None:
            return spread
        return spread.masked_fill(self.empty.view(-1, *(1,) * (spread.ndim - 1)), 0)

    def gather(self, spread: Shaped[Tensor, "rows columns ..."]) -> Shaped[Tensor, "members ..."]:
        """The inverse of :meth:`spread`."""
        x = spread.flatten(0, 1)
        return x if self.member is None else x.index_select(0, self.member)

    def sum(self, members: Float[Tensor, "members width"]) -> Float[Tensor, "rows width"]:
        """Sum over the members of each group."""
        spread = self.spread(members)
        return (spread if self.mask is None else spread * self.mask[:, :, None]).sum(1)
