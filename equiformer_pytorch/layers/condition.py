"""What numbers of a whole structure do to the features of its points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import Condition
from equiformer_pytorch.layers.fiber import Fiber


class Conditioning(ExactConstants):
    r"""Scale and shift of invariants, scale of the higher degrees, channel by channel, from the embedding c of what is
    known of the structure (FiLM, Perez et al. 2018; after a norm adaptive layer norm, Peebles & Xie 2023, section 3.2),

    .. math:: y_0 = (1 + s_0(c)) \odot x_0 + t(c), \qquad y_l = (1 + s_l(c)) \odot x_l,

    with linear maps s and t that start at zero, so that the layer starts as the identity.

    Args:
        fiber: of the features, in and out.
        hidden: width of the embedding c.
    """

    def __init__(self, fiber: Fiber, hidden: int) -> None:
        super().__init__()
        self.fiber = fiber
        self.to_scales = nn.Linear(hidden, sum(fiber) + fiber[0])
        nn.init.zeros_(self.to_scales.weight)
        nn.init.zeros_(self.to_scales.bias)
        self.constant("channel", channel_of_column, tuple(fiber))

    def forward(self, x: Float[Tensor, "points width"], condition: Condition | None) -> Float[Tensor, "points width"]:
        """ValueError without a condition."""
        if condition is None:
            raise ValueError("condition is missing: the layer was built for one")
        scales, shift = self.to_scales(condition.values).split([sum(self.fiber), self.fiber[0]], dim=1)
        scales = (1 + scales).index_select(1, self.get_buffer("channel"))
        shift = F.pad(shift, (0, self.fiber.width - self.fiber[0]))
        of_points = torch.stack((scales, shift), dim=1).index_select(0, condition.structure)
        return torch.addcmul(of_points[:, 1], of_points[:, 0], x)


def channel_of_column(channels: Sequence[int]) -> Int64[Tensor, " width"]:
    """Which channel, of those of all degrees, each column of a feature belongs to."""
    return Fiber(channels).channel_index()
