"""From edge vectors to distances and to the rotations that turn each edge onto y."""

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.so3.edge_rotation import EdgeRotation, rotation_constants


class EdgeFrame(ExactConstants):
    """Distances and rotations of edges, in the dtype of the vectors and never detached.

    D_l magnifies the rounding of a direction by about 2l: above degree 4 float32 vectors are worked on in float64.
    An edge of zero length (or one so short that its square underflows) has no direction: its matrices are zero above
    degree 0, its distance is zero with zero gradient. The constants stay in float64 whatever the module is cast to.
    """

    widen_above = 4
    recurrence: Tensor

    def __init__(self, degrees: int) -> None:
        super().__init__()
        self.max_degree = degrees - 1
        recurrence, blocks = rotation_constants(degrees)
        self.count = len(blocks)
        self.register_buffer("recurrence", recurrence, persistent=False)
        for index, (coefficients, signs) in enumerate(blocks):
            self.register_buffer(f"coefficients_{index}", coefficients, persistent=False)
            self.register_buffer(f"signs_{index}", signs, persistent=False)

    def forward(self, vectors: Float[Tensor, "edges 3"]) -> tuple[Float[Tensor, " edges"], EdgeRotation]:
        given, tiny = vectors.dtype, torch.finfo(vectors.dtype).tiny
        vectors = vectors.double() if self.max_degree > self.widen_above else vectors
        square = (vectors * vectors).sum(-1)
        directed = square > tiny
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
        return distance.to(given), rotation.with_blocks(block.to(given) for block in rotation.blocks)
