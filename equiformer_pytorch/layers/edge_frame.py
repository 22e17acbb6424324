"""From edge vectors to distances and to the rotations that turn each edge onto y."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.so3.harmonics import recurrence_constants
from equiformer_pytorch.so3.wigner import align_with_y, half_turn_coefficients, x_half_turn_signs


class EdgeFrame(nn.Module):
    """Distances and Wigner matrices D_1 … D_L of edges, computed in the dtype of the vectors and never detached.

    An edge of zero length (or one so short that its square underflows) has no direction: its matrices are zero, its
    distance is zero with zero gradient. The constants stay in float64 whatever the module is cast to.
    """

    def __init__(self, max_degree: int) -> None:
        super().__init__()
        self.max_degree = max_degree
        self.register_buffer("recurrence", recurrence_constants(2 * max_degree), persistent=False)
        for degree in range(1, max_degree + 1):
            self.register_buffer(f"half_turn_{degree}", half_turn_coefficients(degree).clone(), persistent=False)
            self.register_buffer(f"signs_{degree}", x_half_turn_signs(degree), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EdgeFrame":
        """Follow moves between devices, but not casts: half-precision constants would cost the geometry's accuracy."""
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, moved in list(self.named_buffers()):
            setattr(self, name, exact[name].to(moved.device))
        return self

    def forward(
        self, vectors: Float[Tensor, "edges 3"]
    ) -> tuple[Float[Tensor, " edges"], tuple[Float[Tensor, "edges order order"], ...]]:
        square = (vectors * vectors).sum(-1)
        directed = square > torch.finfo(vectors.dtype).tiny
        length = torch.where(directed, square, torch.ones_like(square)).sqrt()
        distance = torch.where(directed, length, torch.zeros_like(length))
        if self.max_degree == 0:
            return distance, ()
        degrees = range(1, self.max_degree + 1)
        matrices = align_with_y(
            vectors / length[:, None],
            directed,
            self.recurrence.to(vectors.dtype),
            [self.get_buffer(f"half_turn_{degree}").to(vectors.dtype) for degree in degrees],
            [self.get_buffer(f"signs_{degree}").to(vectors.dtype) for degree in degrees],
        )
        return distance, tuple(matrices)
