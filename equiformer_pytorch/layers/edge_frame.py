"""From edge vectors to distances and to the rotations that turn each edge onto y."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.so3.edge_rotation import EdgeRotation, rotation_constants


class EdgeFrame(nn.Module):
    """Distances and rotations of edges, computed in the dtype of the vectors and never detached.

    An edge of zero length (or one so short that its square underflows) has no direction: its matrices are zero above
    degree 0, its distance is zero with zero gradient. The constants stay in float64 whatever the module is cast to.
    """

    recurrence: Tensor

    def __init__(self, degrees: int) -> None:
        super().__init__()
        recurrence, blocks = rotation_constants(degrees)
        self.count = len(blocks)
        self.register_buffer("recurrence", recurrence, persistent=False)
        for index, (coefficients, signs) in enumerate(blocks):
            self.register_buffer(f"coefficients_{index}", coefficients, persistent=False)
            self.register_buffer(f"signs_{index}", signs, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EdgeFrame":
        """Follow moves between devices, but not casts: half-precision constants would cost the geometry's accuracy."""
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, moved in list(self.named_buffers()):
            setattr(self, name, exact[name].to(moved.device))
        return self

    def forward(self, vectors: Float[Tensor, "edges 3"]) -> tuple[Float[Tensor, " edges"], EdgeRotation]:
        square = (vectors * vectors).sum(-1)
        directed = square > torch.finfo(vectors.dtype).tiny
        length = torch.where(directed, square, torch.ones_like(square)).sqrt()
        distance = torch.where(directed, length, torch.zeros_like(length))
        dtype = vectors.dtype
        constants = [
            (self.get_buffer(f"coefficients_{i}").to(dtype), self.get_buffer(f"signs_{i}").to(dtype))
            for i in range(self.count)
        ]
        rotation = EdgeRotation.from_directions(
            vectors / length[:, None], directed.to(dtype), self.recurrence.to(dtype), constants
        )
        return distance, rotation
