"""What the layers know of the edges of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that one tensor of edge features may hold before receivers are taken in pieces: 512 MiB in float32.
LARGEST = 2**27


@dataclass(frozen=True)
class Edges:
    """Directed edges sender → receiver, sorted by receiver. Receivers count from 0 in each piece, senders over all."""

    senders: Int[Tensor, " edges"]
    receivers: Int[Tensor, " edges"]
    receiver_atoms: Int[Tensor, " edges"]
    """The receivers among all atoms: the same as `receivers` unless this is a piece."""
    count: int
    """How many receivers there are."""
    numbers: Int[Tensor, " atoms"]
    """Atomic numbers of all atoms."""
    basis: Float[Tensor, "edges basis"]
    """Radial basis of the distances."""
    envelope: Float[Tensor, "edges 1"] | None
    """Weight that fades a neighbour out at the cutoff; None where the model has none."""
    rotation: Float[Tensor, "edges rows components"]
    """Wigner matrices into the frames of the edges, of :class:`~.rotation.FrameRotation`."""

    def sum_receivers(self, x: Float[Tensor, "edges *rest"]) -> Float[Tensor, "receivers *rest"]:
        """Sum over the edges of each receiver."""
        return x.new_zeros((self.count, *x.shape[1:])).index_add(0, self.receivers, x)

    def max_receivers(self, x: Float[Tensor, "edges heads"]) -> Float[Tensor, "receivers heads"]:
        """Maximum over the edges of each receiver, −∞ where it has none; carries no gradient."""
        lowest = x.new_full((self.count, x.shape[1]), -torch.inf)
        return lowest.scatter_reduce(0, self.receivers[:, None].expand_as(x), x.detach(), "amax")

    def pieces(self, largest: int) -> Iterator[tuple[slice, Edges]]:
        """By ranges of receivers that have at most `largest` edges together, unless one has more."""
        counts = torch.bincount(self.receivers, minlength=self.count).tolist()
        start = first = 0
        while start < len(counts):
            stop, held = start, 0
            while stop < len(counts) and (stop == start or held + counts[stop] <= largest):
                held += counts[stop]
                stop += 1
            chosen = slice(first, first + held)
            yield (
                slice(start, stop),
                replace(
                    self,
                    senders=self.senders[chosen],
                    receivers=self.receivers[chosen] - start,
                    receiver_atoms=self.receiver_atoms[chosen],
                    count=stop - start,
                    basis=self.basis[chosen],
                    envelope=None if self.envelope is None else self.envelope[chosen],
                    rotation=self.rotation[chosen],
                ),
            )
            start, first = stop, first + held


def over_receivers(
    function: Callable[[Tensor, Edges], Tensor], x: Float[Tensor, "atoms *rest"], edges: Edges, width: int
) -> Float[Tensor, "atoms *out"]:
    """``function(features of all atoms, edges)`` for all receivers.

    Where edge tensors of `width` numbers per edge would exceed :data:`LARGEST`, receivers are taken in pieces, whose
    activations are computed again in the backward pass. The result is the same.
    """
    largest = max(LARGEST // width, 1)
    if edges.senders.shape[0] <= largest:
        return function(x, edges)
    outputs = []
    for _, piece in edges.pieces(largest):
        if torch.is_grad_enabled():
            outputs.append(checkpoint(function, x, piece, use_reentrant=False))
        else:
            outputs.append(function(x, piece))
    return torch.cat(outputs)
