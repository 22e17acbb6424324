"""The maps of the points that an attention starts from, all in one product or few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.layers.activation import gated
from equiformer_pytorch.layers.conv import Conv
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import Arrange, JointProduct, JointProducts, groups_of, is_narrow
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.ops.heads import HeadPlan
from equiformer_pytorch.so3.rows import degree_index


class OfPoints(NamedTuple):
    """What attention needs of every point."""

    sender: Float[Tensor, "points components channels_in"]
    receiver: Float[Tensor, "points components channels_in"]
    """What the convolution adds of the two ends of an edge."""
    own: Float[Tensor, "points components channels"] | None
    """The message of each point to itself, gated, where it attends to itself."""
    invariants: Float[Tensor, "points logit_invariants"] | None
    """What comes beside it, if anything does."""
    gates: Float[Tensor, "points heads"] | None
    """Of the heads, before the sigmoid."""
    query: Float[Tensor, "points features"] | None
    """Of each head for the components of its degree, as `PointMaps.plan` has them; or what an ``nn.Linear`` gives."""


class PointMaps(ExactConstants):
    """The per-degree maps of an attention, applied together.

    In a narrow layer they are one product, and the convolution comes gated. Else there is one batched product for each
    group of degrees with the same channels, and gates come beside. The message of a point to itself comes gated.

    Has no parameters of its own: :meth:`build` takes those of the maps.

    Args:
        conv: whose ends are mapped.
        own, gates, query: the maps to a point's message to itself, to the gates of the heads, to the queries, if any.
        heads: of each degree.
        channels: of messages and queries.
        logit_invariants: how many of a message's invariants are for the logits, the first; the others are gates.
        shapes: of each degree, equal where degrees may share a product.
        dense: where the layer is narrow, every head may have all components, zeros where they are not of its degree.
    """

    def __init__(
        self,
        conv: Conv,
        own: Linear | None,
        gates: nn.Linear | None,
        query: Linear | nn.Linear | None,
        *,
        heads: Sequence[int],
        channels: int,
        logit_invariants: int,
        shapes: Sequence[object],
        dense: bool,
    ) -> None:
        super().__init__()
        self.heads, self.channels, self.logit_invariants = tuple(heads), channels, logit_invariants
        self.degrees, self.channels_in = len(heads), conv.channels
        maps: dict[str, Linear | nn.Linear | None] = {"own": own, "gates": gates, "query": query}
        self.names = [name for name, linear in maps.items() if linear is not None]
        places = {name: place for place, name in enumerate(self.names, start=2)}
        every = [conv.from_sender, conv.from_receiver, *(linear for linear in maps.values() if linear is not None)]
        fibers = [Fiber((m.out_features,)) if isinstance(m, nn.Linear) else m.fiber_out for m in every]
        if isinstance(query, Linear):
            self.query_fiber = query.fiber_out
        self.gated = conv.so2.narrow and is_narrow(conv.from_sender.fiber_in, fibers)
        self.product: JointProduct | JointProducts
        self.dense = dense and self.gated
        if self.dense:
            self.plan = HeadPlan((sum(heads),), self.degrees**2 * channels, ((0, 1),))
        else:
            self.plan = HeadPlan(self.heads, channels, tuple(groups_of(shapes[: self.degrees])))
        if self.gated:
            conv.so2.gate()
            arrange: dict[str, Arrange] = {"own": self._gated_columns}
            if isinstance(query, Linear):
                arrange["query"] = self._query_columns
            self.product = JointProduct(every, {places[name]: arrange[name] for name in arrange if name in places})
        else:
            besides = {places["own"]: (channels, self._own_besides())} if "own" in places else {}
            self.product = JointProducts(every, besides, shapes=shapes)

    def parameters_in_order(self) -> list[Tensor]:
        """Those of the maps."""
        return self.product.parameters_in_order()

    def build(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The matrices that :meth:`forward` takes."""
        return self.product.build(parameters)

    def forward(self, x: Float[Tensor, "points width"], matrices: Sequence[Tensor]) -> OfPoints:
        """The maps of x, with the matrices of :meth:`build`."""
        if isinstance(self.product, JointProduct):
            sender, receiver, *others = self.product(x, matrices)
            found = dict(zip(self.names, others, strict=True))
            message = invariants = query = None
            if "own" in found:
                message = found["own"]
                if self.logit_invariants:
                    widths = [self.logit_invariants, message.shape[1] - self.logit_invariants]
                    invariants, message = message.split(widths, dim=1)
                message = gated(message).unflatten(1, (-1, self.channels))
            if "query" in found:
                query = found["query"]
            sender, receiver = (end.unflatten(1, (-1, self.channels_in)) for end in (sender, receiver))
            return OfPoints(sender, receiver, message, invariants, found.get("gates"), query)
        sender, receiver, *others = self.product(self.product.split(x), matrices)
        mapped = dict(zip(self.names, others, strict=True))
        message = invariants = None
        if "own" in mapped:
            message, gates = mapped["own"].rows(), mapped["own"].besides
            if self.logit_invariants:
                invariants, gates = gates.split([self.logit_invariants, gates.shape[1] - self.logit_invariants], dim=1)
            message = gates.unflatten(1, (-1, self.channels)).sigmoid() * message
        gates = mapped["gates"].besides if "gates" in mapped else None
        query = None
        if "query" in mapped:
            groups = mapped["query"].groups
            query = self._in_order(groups) if groups else mapped["query"].besides
        return OfPoints(sender.rows(), receiver.rows(), message, invariants, gates, query)

    def _own_besides(self) -> list[tuple[int, int]]:
        """Columns of the map to a point's own message that come beside it: invariants for the logits, then the gate of
        each component."""
        first = self.channels + self.logit_invariants
        starts = [0, *(first + degree * self.channels for degree in range(self.degrees - 1))]
        gates = [(starts[degree], starts[degree] + self.channels) for degree in degree_index(self.degrees - 1)]
        return [(self.channels, first), *gates] if self.logit_invariants else gates

    def _gated_columns(self, own: Float[Tensor, "rows width"]) -> Float[Tensor, "rows arranged"]:
        """The columns of the map to a point's own message as invariants for the logits, message, and the gate of each
        of its components."""
        gates, higher = (self.degrees - 1) * self.channels, (self.degrees**2 - 1) * self.channels
        scalars, invariants, gates, message = own.split([self.channels, self.logit_invariants, gates, higher], dim=1)
        of_degrees = torch.cat((scalars, gates), dim=1).split(self.channels, dim=1)
        spread = [of_degrees[degree] for degree in degree_index(self.degrees - 1)]
        return torch.cat((invariants, scalars, message, *spread), dim=1)

    def _query_columns(self, query: Float[Tensor, "rows width"]) -> Float[Tensor, "rows features"]:
        """The columns of the map to the queries in the order of :attr:`plan`."""
        parts = self.query_fiber.split(query)
        if self.dense:
            width, found = self.degrees**2 * self.channels, []
            for degree, part in enumerate(parts):
                before, after = degree**2 * self.channels, width - (degree + 1) ** 2 * self.channels
                of_heads = part.split(self.channels, dim=2)
                found += [F.pad(of_head.flatten(1), (before, after)) for of_head in of_heads]
            return torch.cat(found, dim=1)
        return self._in_order([torch.cat(parts[low:high], dim=1) for low, high in self.plan.groups])

    def _in_order(
        self, groups: Sequence[Float[Tensor, "points _components _channels"]]
    ) -> Float[Tensor, "points features"]:
        """Heads before components."""
        found = []
        for part, (low, _) in zip(groups, self.plan.groups, strict=True):
            found.append(part.unflatten(2, (self.heads[low], self.channels)).transpose(1, 2).flatten(1))
        return torch.cat(found, dim=1) if len(found) > 1 else found[0]
