"""Products of the components of a feature with matrices of their own."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import operation, traced, written_out
from equiformer_pytorch.ops.needed import needed


@operation
def component_products(
    x: Float[Tensor, "points components channels"],
    matrices: Float[Tensor, "components channels channels_out"],
    added: Float[Tensor, "points_or_one components channels_out"] | None = None,
    beside: Float[Tensor, "channels channels_beside"] | None = None,
    added_beside: Float[Tensor, " channels_beside"] | None = None,
) -> tuple[Float[Tensor, "points components channels_out"], Float[Tensor, "points channels_beside"] | None]:
    """Each component times its matrix, and the first one times another that gives what comes besides; `added` is added,
    a bias or what a feature was before. Results lie as x does, points first, and so do the gradients of x, which are
    one tensor: nothing has to be moved or put together. Derivatives of any order.
    """
    if written_out(x):
        return _plain(x, matrices, added, beside, added_beside)
    return _Products.apply(x, matrices, added, beside, added_beside)  # pyright: ignore[reportReturnType]


def _plain(
    x: Tensor, matrices: Tensor, added: Tensor | None, beside: Tensor | None, added_beside: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """In plain operations."""
    product = torch.bmm(x.transpose(0, 1), matrices).transpose(0, 1)
    return product if added is None else product + added, _beside(x, beside, added_beside)


def _beside(x: Tensor, beside: Tensor | None, added: Tensor | None) -> Tensor | None:
    if beside is None:
        return None
    return x[:, 0] @ beside if added is None else torch.addmm(added, x[:, 0], beside)


def _points_first(x: Tensor, matrices: Tensor, added: Tensor | None = None) -> Tensor:
    """The products, written where they belong."""
    result = x.new_empty(x.shape[0], matrices.shape[0], matrices.shape[2])
    if added is None:
        torch.bmm(x.transpose(0, 1), matrices, out=result.transpose(0, 1))
    else:
        torch.baddbmm(added.transpose(0, 1), x.transpose(0, 1), matrices, out=result.transpose(0, 1))
    return result


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        matrices: Tensor,
        added: Tensor | None,
        beside: Tensor | None,
        added_beside: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.biased = added is not None and added.shape[0] == 1
        ctx.tensors = (True, True, added is not None, beside is not None, added_beside is not None)
        ctx.save_for_backward(x, matrices, beside)
        return _points_first(x, matrices, added), _beside(x, beside, added_beside)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None):
        x, matrices, beside = ctx.saved_tensors
        slope, of_besides = cast(tuple[Tensor, Tensor | None], slopes)  # the second is there with what is beside
        wants = needed(ctx, ctx.tensors)
        of_x = of_matrices = of_added = of_beside = of_added_beside = None
        if wants[0]:
            of_x = _slope_of_input(slope, matrices, of_besides, beside)
        if wants[1]:
            of_matrices = torch.bmm(x.permute(1, 2, 0), slope.transpose(0, 1))
        if wants[2]:
            of_added = slope.sum(0, keepdim=True) if ctx.biased else slope
        if of_besides is not None and wants[3]:
            of_beside = x[:, 0].mT @ of_besides
        if of_besides is not None and wants[4]:
            of_added_beside = of_besides.sum(0)
        return of_x, of_matrices, of_added, of_beside, of_added_beside


def _slope_of_input(slope: Tensor, matrices: Tensor, of_besides: Tensor | None, beside: Tensor | None) -> Tensor:
    if torch.is_grad_enabled() or traced(slope):
        of_x = torch.bmm(slope.transpose(0, 1), matrices.mT).transpose(0, 1)
        if beside is None or of_besides is None:
            return of_x
        return of_x + F.pad((of_besides @ beside.mT)[:, None], (0, 0, 0, of_x.shape[1] - 1))
    of_x = _points_first(slope, matrices.mT)
    if beside is not None and of_besides is not None:
        of_x[:, 0].addmm_(of_besides, beside.mT)
    return of_x
