"""The layout of features: which degrees, how many channels each, and where they lie in one flat tensor."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Fiber(tuple[int, ...]):
    """Channels per degree, ``Fiber((c_0, c_1, …))``.

    A feature of this fiber is one tensor ``(points, Σ_l (2l+1)·c_l)``: degree-major, then order −l … l, channel
    last. So a residual is one addition, a gather one row index, and each degree a view ``(points, 2l+1, c_l)``.
    """

    @property
    def sizes(self) -> list[int]:
        """Columns that each degree takes."""
        return [(2 * degree + 1) * channels for degree, channels in enumerate(self)]

    @property
    def width(self) -> int:
        """Columns of a feature."""
        return sum(self.sizes)

    def split(self, x: Float[Tensor, "points width"]) -> list[Float[Tensor, "points order channels"]]:
        """One view (points, 2l+1, c_l) per degree."""
        parts = x.split(self.sizes, dim=-1)
        return [part.unflatten(-1, (2 * degree + 1, self[degree])) for degree, part in enumerate(parts)]

    def keep(self, degrees: int) -> "Fiber":
        """The fiber of the lowest `degrees` degrees; its columns come first in the features of this one."""
        return Fiber(self[:degrees])

    def channel_index(self) -> Tensor:
        """For each column the index of its (degree, channel) among the Σ_l c_l of them."""
        index, first = [], 0
        for degree, channels in enumerate(self):
            index += [torch.arange(first, first + channels)] * (2 * degree + 1)
            first += channels
        return torch.cat(index)


def join(parts: Sequence[Float[Tensor, "points order channels"]]) -> Float[Tensor, "points width"]:
    """The inverse of :meth:`Fiber.split`."""
    return torch.cat([part.flatten(1) for part in parts], dim=-1)
