"""Functions of large tensors in pieces that stay in the cache, with nothing kept but their input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Numbers per piece: 2 MiB in float32. Fresh pages for larger tensors cost more than the arithmetic on them.
PIECE = 2**19


def in_pieces(
    function: Callable[..., Tensor], x: Float[Tensor, "points *rest"], shared: tuple[Tensor, ...], width: int
) -> Float[Tensor, "points *out"]:
    """``function(x, *shared)``, which must act on each point alone and make `width` numbers per point on the way.

    Its intermediates are computed again in the backward pass. Any order of derivative. Under torch.compile, which
    fuses such functions, and under the transforms of torch.func they are kept.
    """
    size = max(PIECE // width, 1)
    if torch.compiler.is_compiling() or x.shape[0] <= size or torch._C._are_functorch_transforms_active():
        return function(x, *shared)
    return _InPieces.apply(function, size, x, *shared)  # pyright: ignore[reportReturnType]


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], size: int, x: Tensor, *shared: Tensor) -> Tensor:
        ctx.function, ctx.size = function, size
        ctx.save_for_backward(x, *shared)
        pieces = x.split(size)
        first = function(pieces[0], *shared)
        out = first.new_empty((x.shape[0], *first.shape[1:]))
        out[:size] = first
        for i, piece in enumerate(pieces[1:], 1):
            out[i * size : i * size + piece.shape[0]] = function(piece, *shared)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, *shared = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            # A derivative of this derivative will be asked for.
            with torch.enable_grad():
                inputs = [tensor.view_as(tensor) for tensor in (x, *shared)]
                out = ctx.function(*inputs)
            chosen = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
            found = iter(torch.autograd.grad(out, chosen, gradient, create_graph=True))
            return None, None, *(next(found) if want else None for want in wanted)
        shared = [tensor.detach().requires_grad_(want) for tensor, want in zip(shared, wanted[1:], strict=True)]
        sums = [torch.zeros_like(tensor) for tensor, want in zip(shared, wanted[1:], strict=True) if want]
        of_x = torch.empty_like(x) if wanted[0] else None
        start = 0
        for piece, share in zip(x.split(ctx.size), gradient.split(ctx.size), strict=True):
            piece = piece.detach().requires_grad_(wanted[0])
            with torch.enable_grad():
                out = ctx.function(piece, *shared)
            inputs = [tensor for tensor in (piece, *shared) if tensor.requires_grad]
            found = list(torch.autograd.grad(out, inputs, share))
            if of_x is not None:
                of_x[start : start + piece.shape[0]] = found.pop(0)
            for total, part in zip(sums, found, strict=True):
                total += part
            start += piece.shape[0]
        totals = iter(sums)
        return None, None, of_x, *(next(totals) if want else None for want in wanted[1:])
