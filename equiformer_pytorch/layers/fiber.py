"""The layout of features: which degrees, how many channels each, and where they lie in one flat tensor."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Fiber(tuple[int, ...]):
    """Channels per degree, ``Fiber((c_0, c_1, …))``.

    A feature of this fiber is one tensor ``(points, Σ_l (2l+1)·c_l)``: degree-major, then order −l … l, channel
    last. So a residual is one addition, a gather one row index, and each degree a view ``(points, 2l+1, c_l)``.

    Args:
        channels: of degrees 0, 1, …
    """

    sizes: list[int]
    """Columns that each degree takes."""
    shapes: list[tuple[int, int]]
    """Orders and channels of each degree."""
    width: int
    """Columns of a feature."""

    def __new__(cls, channels: Iterable[int]) -> "Fiber":
        fiber = super().__new__(cls, channels)
        fiber.shapes = [(2 * degree + 1, c) for degree, c in enumerate(fiber)]
        fiber.sizes = [orders * c for orders, c in fiber.shapes]
        fiber.width = sum(fiber.sizes)
        return fiber

    def split(self, x: Float[Tensor, "points width"]) -> list[Float[Tensor, "points _order _channels"]]:
        """One view (points, 2l+1, c_l) per degree."""
        parts = x.split(self.sizes, dim=-1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

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


def join(parts: Sequence[Float[Tensor, "points _order _channels"]]) -> Float[Tensor, "points width"]:
    """The inverse of :meth:`Fiber.split`."""
    if len(parts) == 1:
        return parts[0].flatten(1)
    if len({part.shape[-1] for part in parts}) == 1:
        return torch.cat(list(parts), dim=1).flatten(1)
    return torch.cat([part.flatten(1) for part in parts], dim=-1)
