"""Normalisation of equivariant features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.fiber import Fiber


class Norm(nn.Module):
    r"""Root-mean-square norm over all degrees together,

    .. math:: y = \gamma\,x \Big/ \sqrt{\epsilon + \tfrac{1}{L+1}\sum_l \langle x_l^2 \rangle},

    with one gain γ per degree and channel and the mean over orders and channels. The degrees share one
    denominator (as in EquiformerV3's merged norm): with one per degree, the rounding noise of a degree that symmetry
    forces to zero would come out of order one. Statistics are computed in at least float32.
    """

    eps = 1e-6
    mean: Tensor
    channel: Tensor

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(sum(fiber)))
        mean = torch.cat([torch.full((size,), 1 / (size * len(fiber))) for size in fiber.sizes])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("channel", fiber.channel_index(), persistent=False)

    def forward(self, x: Float[Tensor, "points width"]) -> Float[Tensor, "points width"]:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean_square = (wide * wide * self.mean.to(wide.dtype)).sum(-1, keepdim=True)
        return x * (mean_square + self.eps).rsqrt().to(x.dtype) * self.gain[self.channel]
