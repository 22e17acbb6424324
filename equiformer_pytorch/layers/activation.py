"""Functions of invariants that all families use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import traced
from equiformer_pytorch.ops.gates import silu_slope


def smooth_leaky_relu(x: Float[Tensor, "*points"], slope: float = 0.2) -> Float[Tensor, "*points"]:
    r"""A leaky ReLU whose kink is smoothed by a sigmoid σ (EquiformerV2, appendix D),
    :math:`\tfrac{1+a}{2} x + \tfrac{1-a}{2} x\,(2σ(x) - 1) = a x + (1-a)\,x\,σ(x)`."""
    if traced() or not (x.requires_grad and torch.is_grad_enabled()):
        return torch.lerp(F.silu(x), x, slope)
    return _SmoothLeakyReLU.apply(x, slope)  # pyright: ignore[reportReturnType]


def gated(x: Float[Tensor, "rows two_channels"]) -> Float[Tensor, "rows channels"]:
    """The first half of the channels times the sigmoids of the second."""
    if traced():  # torch.func has no batching rule for all derivatives of the one operation
        value, gate = x.chunk(2, dim=1)
        return value * gate.sigmoid()
    return F.glu(x, dim=1)


class _SmoothLeakyReLU(torch.autograd.Function):
    """With a backward pass of two operations; derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        ctx.save_for_backward(x)
        return torch.lerp(F.silu(x), x, slope)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        (x,) = ctx.saved_tensors
        return torch.lerp(silu_slope(slopes[0], x), slopes[0], ctx.slope), None
