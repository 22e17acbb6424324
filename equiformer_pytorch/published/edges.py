"""What the layers know of the edges of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that one tensor of edge features may hold before receivers are taken in pieces: 256 MiB in float32.
LARGEST = 2**26
# The same where nothing is recorded, and the size of the pieces, on a CPU: 32 MiB in float32. Larger tensors are fresh
# pages every time, which cost more than the arithmetic on them.
REUSED = 2**23


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
    split_before: dict[int, list[Edges]] = field(default_factory=dict, repr=False, compare=False)
    """The pieces that were asked for, by their size."""

    def sum_receivers(self, x: Float[Tensor, "edges *rest"]) -> Float[Tensor, "receivers *rest"]:
        """Sum over the edges of each receiver."""
        return x.new_zeros((self.count, *x.shape[1:])).index_add(0, self.receivers, x)

    def max_receivers(self, x: Float[Tensor, "edges heads"]) -> Float[Tensor, "receivers heads"]:
        """Maximum over the edges of each receiver, −∞ where it has none; carries no gradient."""
        lowest = x.new_full((self.count, x.shape[1]), -torch.inf)
        return lowest.scatter_reduce(0, self.receivers[:, None].expand_as(x), x.detach(), "amax")

    def pieces(self, largest: int) -> list[Edges]:
        """By ranges of receivers that have at most `largest` edges together, unless one has more.

        All layers share them, so that their gradients are put together once.
        """
        if largest in self.split_before:
            return self.split_before[largest]
        receivers, sizes, held = [0], [0], torch.bincount(self.receivers, minlength=self.count).tolist()
        for count in held:
            if receivers[-1] and sizes[-1] + count > largest:
                receivers.append(0)
                sizes.append(0)
            receivers[-1] += 1
            sizes[-1] += count
        names = ("senders", "receivers", "receiver_atoms", "basis", "envelope", "rotation")
        tensors = [getattr(self, name) for name in names]
        parts = zip(*((None,) * len(sizes) if t is None else t.split(sizes) for t in tensors), strict=True)
        pieces, start = [], 0
        for count, part in zip(receivers, parts, strict=True):
            piece = replace(self, count=count, split_before={}, **dict(zip(names, part, strict=True)))
            pieces.append(replace(piece, receivers=piece.receivers - start))
            start += count
        self.split_before[largest] = pieces
        return pieces


def over_receivers(
    function: Callable[[Tensor, Edges], Tensor], x: Float[Tensor, "atoms *rest"], edges: Edges, width: int
) -> Float[Tensor, "atoms *out"]:
    """``function(features of all atoms, edges)`` for all receivers.

    Where edge tensors of `width` numbers per edge would exceed :data:`LARGEST`, receivers are taken in pieces, whose
    activations are computed again in the backward pass. The result is the same.
    """
    # Each piece gives a gradient of all atoms: so many edges that this costs little beside them.
    largest = _piece(x, edges.senders.shape[0], width, 2 * x.shape[0])
    if largest is None:
        return function(x, edges)
    return torch.cat([_remembered(function, x, part) for part in edges.pieces(largest)])


def over_atoms(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "atoms *rest"], width: int
) -> Float[Tensor, "atoms *out"]:
    """``function(features of atoms)``, which acts on each atom alone, in pieces like :func:`over_receivers`."""
    largest = _piece(x, x.shape[0], width, 1)
    if largest is None:
        return function(x)
    return torch.cat([_remembered(function, part) for part in x.split(largest)])


def _piece(x: Tensor, count: int, width: int, least: int) -> int | None:
    """How many of `count` edges or atoms go into a piece, at least `least` if something is recorded; None for all."""
    most = max(LARGEST // width, 1)
    reused = x.device.type == "cpu" and not torch.compiler.is_compiling()
    small = max(min(REUSED, LARGEST) // width, 1) if reused else most
    if torch.is_grad_enabled():
        return None if count <= most else min(max(small, least), most)
    return None if count <= small else small


def _remembered(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """``function(*given)``, of which only what is given is kept."""
    return checkpoint(function, *given, use_reentrant=False) if torch.is_grad_enabled() else function(*given)
