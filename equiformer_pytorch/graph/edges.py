"""Points and the edges between them: all that layers know of neighbours, masks, batches and adjacency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.so3.edge_rotation import EdgeRotation


class Edges(NamedTuple):
    """What the doors hand on: edges sorted by receiver."""

    senders: Int[Tensor, " edges"]
    receivers: Int[Tensor, " edges"]
    vectors: Float[Tensor, "edges 3"]
    """From the receiver to the sender."""
    features: Float[Tensor, "edges edge_dim"] | None


@dataclass(frozen=True)
class Graph:
    """Real points only, flat, and directed edges sender → receiver, sorted by receiver.

    The floating-point fields may carry gradients: :meth:`tensors` and :meth:`with_tensors` take them out and put
    others in, for code that differentiates by hand.
    """

    senders: Int[Tensor, " edges"]
    receivers: Int[Tensor, " edges"]
    neighbours: Table
    structures: Table
    envelope: Float[Tensor, " edges"]
    edge_embedding: Float[Tensor, "edges hidden"]
    rotation: EdgeRotation

    def chunks(self, slots: int) -> Iterator[tuple[slice, Graph]]:
        """The graph by ranges of receivers, which count from 0 in each piece and receive from all points.

        The table of a piece has at most `slots` slots, unless a single receiver has more.
        """
        counts = torch.bincount(self.receivers, minlength=self.neighbours.rows).tolist()
        start = first_edge = 0
        while start < len(counts):
            stop, columns = start, 0
            while stop < len(counts) and (stop == start or max(columns, counts[stop]) * (stop + 1 - start) <= slots):
                columns = max(columns, counts[stop])
                stop += 1
            edges = slice(first_edge, first_edge + sum(counts[start:stop]))
            receivers = self.receivers[edges] - start
            piece = replace(
                self,
                senders=self.senders[edges],
                receivers=receivers,
                neighbours=Table.from_groups(receivers, stop - start),
            )
            yield slice(start, stop), piece.with_tensors(tuple(tensor[edges] for tensor in self.tensors()))
            start, first_edge = stop, edges.stop

    def add_ends(
        self, sender: Float[Tensor, "points width"], receiver: Float[Tensor, "points width"]
    ) -> Float[Tensor, "edges width"]:
        """The sum of a feature of the sender and one of the receiver, for every edge."""
        gathered = sender.index_select(0, self.senders)
        if self.neighbours.index is None:
            return (self.neighbours.spread(gathered) + receiver[:, None]).flatten(0, 1)
        return gathered + receiver.index_select(0, self.receivers)

    def softmax(
        self, logits: Float[Tensor, "points heads slots"], attend_self: bool
    ) -> Float[Tensor, "points heads slots"]:
        r"""Attention weights over the edges of each receiver; with `attend_self` slot 0 is the point itself, u = 1:

        .. math:: \alpha_{ij} = u_{ij}\,\frac{u_{ij}\,e^{t_{ij}}}{\sum_k u_{ik}\,e^{t_{ik}}}, \qquad
            t_{ij} = u_{ij} (s_{ij} - \bar s_i), \quad \bar s_i = \frac{\sum_k u_{ik} s_{ik}}{\sum_k u_{ik} + 0.01}.

        The envelope u enters three times: inside, so that a neighbour leaves the sum smoothly; outside, so that an
        only neighbour does too; and on the logits s, so that a favoured neighbour loses its advantage on the way out.
        Without that, one with s larger by 40 would dominate until u reaches exp(−40), and forces would spike there.
        Well inside the radius u is one and this is the plain softmax. Empty slots weigh nothing, also where a point
        has no others.
        """
        envelope = self.spread_envelope().to(logits.dtype)
        if attend_self:
            envelope = F.pad(envelope, (1, 0), value=1.0)
        # Slots of weight zero lie below any logit, but finitely: a row without neighbours must not become NaN.
        finfo = torch.finfo(logits.dtype)
        log_envelope = envelope.clamp(min=finfo.tiny).log().masked_fill(envelope == 0, finfo.min / 2)
        envelope = envelope[:, None]
        mean = (logits * envelope).sum(-1, keepdim=True) / (envelope.sum(-1, keepdim=True) + 0.01)
        faded = (logits - mean) * envelope
        return (faded + log_envelope[:, None]).softmax(-1) * envelope

    def spread_envelope(self) -> Float[Tensor, "points slots"]:
        """The envelope of each slot, zero for empty ones."""
        envelope = self.neighbours.spread(self.envelope)
        return envelope if self.neighbours.mask is None else envelope * self.neighbours.mask

    def sum_structures(self, x: Float[Tensor, "points width"]) -> Float[Tensor, "structures width"]:
        """Sum over the points of each structure."""
        spread = self.structures.spread(x)
        if self.structures.mask is not None:
            spread = spread * self.structures.mask[:, :, None]
        return spread.sum(1)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that may carry gradients."""
        return (self.envelope, self.edge_embedding, *self.rotation.blocks)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Graph:
        """A graph that has these instead, in the order of :meth:`tensors`."""
        envelope, edge_embedding, *blocks = tensors
        return replace(
            self, envelope=envelope, edge_embedding=edge_embedding, rotation=self.rotation.with_blocks(blocks)
        )
