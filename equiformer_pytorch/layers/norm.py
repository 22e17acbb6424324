"""Normalisation of equivariant features."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.ops.dispatch import traced


class Norm(ExactConstants):
    r"""Root-mean-square norm: degree 0 by itself, the higher degrees by the mean over all degrees,

    .. math:: y_0 = \frac{\gamma_0\,x_0}{\sqrt{\epsilon + \langle x_0^2 \rangle}}, \qquad
        y_l = \frac{\gamma_l\,x_l}{\sqrt{\epsilon + \frac{1}{L+1}\sum_{l'=0}^{L} \langle x_{l'}^2 \rangle}},

    with one gain γ per degree and channel; means are over orders and channels. With a denominator of its own, a
    degree that symmetry forces to zero would come out as rounding noise of order one (EquiformerV3's merged norm
    shares one denominator too). Statistics are computed in at least float32.

    Args:
        fiber: of the features, in and out.
    """

    eps = 1e-6

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.fiber = fiber
        self.gain = nn.Parameter(torch.ones(sum(fiber)))
        self.constant("mean", mean_weights, tuple(fiber))
        self.constant("floor", floor, self.eps)

    def spread_gain(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """(2, width): the gain of each column, in the row of its denominator (degree 0, others)."""
        gains = parameters[0].split(list(self.fiber))
        columns = [gain.repeat(orders) for gain, (orders, _) in zip(gains, self.fiber.shapes, strict=True)]
        invariants, higher = columns[0], torch.cat([columns[0][:0], *columns[1:]])
        upper = torch.cat((invariants, torch.zeros_like(higher)))
        return [torch.stack((upper, torch.cat((torch.zeros_like(invariants), higher))))]

    def forward(
        self, x: Float[Tensor, "points width"], gain: Float[Tensor, "two width"] | None = None
    ) -> Float[Tensor, "points width"]:
        """`gain` is :meth:`spread_gain`, for a layer that has it already."""
        gain = self.spread_gain([self.gain])[0] if gain is None else gain
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, floor = self.cast("mean", wide.dtype), self.cast("floor", wide.dtype)
        with torch.autocast(x.device.type, enabled=False):
            if traced():
                return (wide * (torch.addmm(floor, wide * wide, mean).rsqrt() @ gain.to(wide.dtype))).to(x.dtype)
            return _Normed.apply(wide, gain.to(wide.dtype), mean, floor).to(x.dtype)  # pyright: ignore[reportOptionalMemberAccess]


def normalised(z: Float[Tensor, "*rows channels"], eps: float = 1e-6) -> Float[Tensor, "*rows channels"]:
    """Invariants less their mean, over their standard deviation: (z − ⟨z⟩) / √(ε + ⟨(z − ⟨z⟩)²⟩). One alone stays as it
    is."""
    return z if z.shape[-1] == 1 else F.layer_norm(z, z.shape[-1:], eps=eps)


def mean_weights(channels: Sequence[int]) -> Float64[Tensor, "width two"]:
    """Weights of the squares of a feature in its two means: over degree 0, and over all degrees."""
    fiber = Fiber(channels)
    invariants = torch.zeros(fiber.width, dtype=torch.float64)
    invariants[: fiber[0]] = 1 / fiber[0]
    every = torch.cat([torch.full((size,), 1 / (size * len(fiber)), dtype=torch.float64) for size in fiber.sizes])
    return torch.stack((invariants, every), dim=1)


def floor(eps: float) -> Float64[Tensor, " two"]:
    """What the two means are added to."""
    return torch.full((2,), eps, dtype=torch.float64)


class _Normed(torch.autograd.Function):
    """x ⊙ (r G), r = (x² M + ε)^(-½), with a backward pass of eight operations; derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, mean: Tensor, floor: Tensor) -> Tensor:
        scale = torch.addmm(floor, x * x, mean).rsqrt()
        factor = scale @ gain
        ctx.save_for_backward(x, gain, mean, floor, scale, factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        x, gain, mean, floor, scale, factor = ctx.saved_tensors
        if torch.is_grad_enabled():  # for the next derivative they must hang on x
            scale = torch.addmm(floor, x * x, mean).rsqrt()
            factor = scale @ gain
        of_factor = slopes[0] * x
        of_squares = ((of_factor @ gain.mT) * scale.pow(3)) @ mean.mT
        return torch.addcmul(slopes[0] * factor, x, of_squares, value=-1), scale.mT @ of_factor, None, None
