"""Points and the edges between them: all that layers know of neighbours, masks, batches and adjacency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.graph.frames import Rotation
from equiformer_pytorch.graph.table import Table


class Edges(NamedTuple):
    """What the doors hand on: edges sorted by receiver."""

    senders: Int[Tensor, " edges"]
    """The point that each edge comes from."""
    receivers: Int[Tensor, " edges"]
    """The point that it goes to."""
    vectors: Float[Tensor, "edges 3"]
    """From the receiver to the sender."""
    features: Float[Tensor, "edges edge_dim"] | None
    """Invariants that are known of an edge beside its length."""
    known: tuple[int, int] | None = None
    """Bounds of the number of edges of a receiver, where they are known."""


class Slots(NamedTuple):
    """The edges of each receiver side by side, with what a softmax over them needs of the envelope, once per call.

    Empty slots have weight zero. With a self slot, the first, the point itself has weight one.
    """

    envelope: Float[Tensor, "receivers slots 1"]
    log_envelope: Float[Tensor, "receivers slots 1"]
    """Slots of weight zero lie below any logit, but finitely: a row without neighbours must not become NaN."""
    minus_share: Float[Tensor, "receivers slots 1"]
    """Minus the weight in the mean of a receiver's logits: −u / (Σ u + 0.01)."""

    @classmethod
    def of(cls, table: Table, envelope: Float[Tensor, " edges"], attend_self: bool) -> Slots:
        """From the envelope of each edge."""
        u = table.spread(envelope[:, None])
        if table.mask is not None:
            u = u * table.mask[:, :, None]
        if attend_self:
            u = F.pad(u, (0, 0, 1, 0), value=1.0)
        finfo = torch.finfo(u.dtype)
        log = u.clamp(min=finfo.tiny).log().masked_fill(u == 0, finfo.min / 2)
        return cls(u, log, u / (-0.01 - u.sum(1, keepdim=True)))


class Condition(NamedTuple):
    """What is known of the structures as wholes."""

    values: Float[Tensor, "structures hidden"]
    """An embedding of it."""
    structure: Int[Tensor, " points"]
    """The structure of each point."""


@dataclass(frozen=True)
class EdgeGraph:
    """Directed edges sender → receiver, sorted by receiver. Receivers count from 0 in each piece, senders over all.

    The floating-point fields may carry gradients: :meth:`tensors` and :meth:`with_tensors` take them out and put
    others in, for code that differentiates by hand.
    """

    senders: Int[Tensor, " edges"]
    """The point that each edge comes from."""
    receivers: Int[Tensor, " edges"]
    """The point that it goes to."""
    receiver_points: Int[Tensor, " edges"]
    """The receivers among all points: the same as `receivers` unless this is a piece."""
    count: int
    """How many receivers there are."""
    rotation: Rotation
    """Into the frames of the edges."""
    scalars: Float[Tensor, "edges width"]
    """Invariants of each edge: a basis of its length, or an embedding of that and its features."""
    envelope: Float[Tensor, " edges"] | None = None
    """Weight that fades a neighbour out at the cutoff; None where the model has none."""
    table: Table | None = None
    """The edges of each receiver as a row, where layers want that."""
    slots: Slots | None = None
    structures: Table | None = None
    """The points of each structure as a row, where layers look at all of them."""
    kinds: Int[Tensor, " points"] | None = None
    """Atomic numbers of all points."""
    condition: Condition | None = None
    """Of the structures of all points, where layers are conditioned."""

    @cached_property
    def ends(self) -> tuple[Int[Tensor, " two_edges"], Int[Tensor, " edges"]]:
        """Both ends of each edge, one after the other, as rows of the receivers with all points after them; and where
        those of each edge begin."""
        rows = torch.stack((self.receivers, self.senders + self.count), dim=1).flatten()
        return rows, torch.arange(0, rows.shape[0], 2, device=rows.device)

    def laid_out(self) -> tuple[Table, Slots]:
        """The table and the slots; ValueError of a graph that has none."""
        if self.table is None or self.slots is None:
            raise ValueError("this graph has no table of each receiver's edges")
        return self.table, self.slots

    def sum_receivers(self, x: Float[Tensor, "edges *rest"]) -> Float[Tensor, "receivers *rest"]:
        """Sum over the edges of each receiver."""
        return x.new_zeros((self.count, *x.shape[1:])).index_add(0, self.receivers, x)

    def spread(self, x: Float[Tensor, "edges *rest"]) -> Float[Tensor, "receivers slots *rest"]:
        """Edges in the rows of their receivers; see :meth:`Table.spread`."""
        return self.laid_out()[0].spread(x)

    def pieces(self, most: int) -> list[tuple[slice, EdgeGraph]]:
        """The graph by ranges of receivers that have at most `most` edges together (slots, with a table), unless a
        single one has more. Receivers count from 0 in each piece and receive from all points."""
        # Once for all layers; what is made where nothing is recorded carries no gradient.
        key = most, torch.is_grad_enabled()
        if key not in self._pieces:
            self._pieces[key] = self._cut(most)
        return self._pieces[key]

    @cached_property
    def _pieces(self) -> dict[tuple[int, bool], list[tuple[slice, EdgeGraph]]]:
        return {}

    def _cut(self, most: int) -> list[tuple[slice, EdgeGraph]]:
        counts = torch.bincount(self.receivers, minlength=self.count).tolist()
        ranges, sizes, widths, start = [], [], [], 0
        while start < self.count:
            stop, edges, columns = start, 0, 0
            while stop < self.count:
                wider = max(columns, counts[stop])
                size = edges + counts[stop] if self.table is None else wider * (stop + 1 - start)
                if stop > start and size > most:
                    break
                stop, edges, columns = stop + 1, edges + counts[stop], wider
            ranges.append(slice(start, stop))
            sizes.append(edges)
            widths.append(columns)
            start = stop
        # By split, whose gradient is one concatenation: those of slices are each as large as the whole.
        senders, receivers, receiver_points, scalars = (
            x.split(sizes) for x in (self.senders, self.receivers, self.receiver_points, self.scalars)
        )
        blocks = [block.split(sizes) for block in self.rotation.blocks]
        envelope = None if self.envelope is None else self.envelope.split(sizes)
        rows = [part.stop - part.start for part in ranges]
        slots = None if self.slots is None else [x.split(rows) for x in self.slots]
        own = 0 if self.slots is None or self.table is None else self.slots.envelope.shape[1] - self.table.columns
        found = []
        for i, part in enumerate(ranges):
            to = receivers[i] - part.start
            piece = replace(
                self,
                senders=senders[i],
                receivers=to,
                receiver_points=receiver_points[i],
                count=rows[i],
                rotation=self.rotation.with_blocks(block[i] for block in blocks),
                scalars=scalars[i],
                envelope=None if envelope is None else envelope[i],
                table=None if self.table is None else Table.from_groups(to, rows[i]),
                slots=None if slots is None else Slots(*(x[i][:, : widths[i] + own] for x in slots)),
            )
            found.append((part, piece))
        return found

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that may carry gradients."""
        envelope = () if self.envelope is None else (self.envelope,)
        condition = () if self.condition is None else (self.condition.values,)
        return (self.scalars, *self.rotation.blocks, *envelope, *condition, *(self.slots or ()))

    def with_tensors(self, tensors: Sequence[Tensor]) -> EdgeGraph:
        """A graph that has these instead, in the order of :meth:`tensors`."""
        scalars, *rest = tensors
        count = len(self.rotation.blocks)
        rotation, rest = self.rotation.with_blocks(rest[:count]), rest[count:]
        envelope = None if self.envelope is None else rest.pop(0)
        condition = None if self.condition is None else self.condition._replace(values=rest.pop(0))
        slots = None if self.slots is None else Slots(*rest)
        return replace(self, scalars=scalars, rotation=rotation, envelope=envelope, condition=condition, slots=slots)
