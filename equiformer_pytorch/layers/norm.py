"""Normalisation of equivariant features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.layers.fiber import Fiber


class Norm(ExactConstants):
    r"""Root-mean-square norm: degree 0 by itself, the higher degrees by the mean over all degrees,

    .. math:: y_0 = \frac{\gamma_0\,x_0}{\sqrt{\epsilon + \langle x_0^2 \rangle}}, \qquad
        y_l = \frac{\gamma_l\,x_l}{\sqrt{\epsilon + \frac{1}{L+1}\sum_{l'=0}^{L} \langle x_{l'}^2 \rangle}},

    with one gain γ per degree and channel; means are over orders and channels. With a denominator of its own, a
    degree that symmetry forces to zero would come out as rounding noise of order one (EquiformerV3's merged norm
    shares one denominator too). Statistics are computed in at least float32.
    """

    eps = 1e-6
    mean: Tensor
    channel: Tensor

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.invariants = fiber[0]
        self.gain = nn.Parameter(torch.ones(sum(fiber)))
        mean = torch.cat([torch.full((size,), 1 / (size * len(fiber)), dtype=torch.float64) for size in fiber.sizes])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("channel", fiber.channel_index(), persistent=False)

    def forward(self, x: Float[Tensor, "points width"]) -> Float[Tensor, "points width"]:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        square = wide * wide
        of_invariants = (square[:, : self.invariants].mean(-1, keepdim=True) + self.eps).rsqrt()
        of_all = ((square * self.mean.to(square.dtype)).sum(-1, keepdim=True) + self.eps).rsqrt()
        higher = x.shape[-1] - self.invariants
        factor = torch.cat((of_invariants.expand(-1, self.invariants), of_all.expand(-1, higher)), dim=-1)
        return x * factor.to(x.dtype) * self.gain[self.channel]
