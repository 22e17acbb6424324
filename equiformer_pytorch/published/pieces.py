"""Functions that keep nothing for the backward pass but their inputs, and run in pieces that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Numbers per piece: 2 MiB in float32. Fresh pages for larger tensors cost more than the arithmetic on them.
PIECE = 2**19


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, whose intermediates are computed again in the backward pass, for derivatives of any order.

    Derivatives are kept in the same way: what a second derivative needs of the first are again only its inputs.
    Under torch.compile, which decides by itself what to keep, and the transforms of torch.func, this is the plain call.
    """
    if _plain(tensors):
        return function(*tensors)
    plan = _Plan(function, (False,) * len(tensors), (False,), None)
    return _Recomputed.apply(plan, *tensors)[0]  # pyright: ignore[reportOptionalSubscript]


def in_pieces(
    function: Callable[..., Tensor], x: Float[Tensor, "points *rest"], shared: tuple[Tensor, ...], width: int
) -> Float[Tensor, "points *out"]:
    """``function(x, *shared)`` like :func:`recomputed`, in pieces of the points.

    The function must act on each point alone; it makes `width` numbers per point on the way.
    """
    size = max(PIECE // width, 1)
    if _plain((x, *shared)):
        return function(x, *shared)
    plan = _Plan(function, (True, *(False for _ in shared)), (True,), size)
    return _Recomputed.apply(plan, x, *shared)[0]  # pyright: ignore[reportOptionalSubscript]


def _plain(tensors: Sequence[Tensor]) -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


@dataclass(frozen=True)
class _Plan:
    """A function of tensors, which of them and of its results are split by points (other results are summed)."""

    function: Callable[..., Any]
    split: tuple[bool, ...]
    joined: tuple[bool, ...]
    size: int | None

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All results, piece by piece."""
        rows = next((t.shape[0] for t, split in zip(tensors, self.split, strict=True) if split), 0)
        if self.size is None or rows <= self.size:
            return _tuple(self.function(*tensors))
        pieces = [
            t.split(self.size) if split else (t,) * -(-rows // self.size)
            for t, split in zip(tensors, self.split, strict=True)
        ]
        results: list[Tensor] = []
        for i, piece in enumerate(zip(*pieces, strict=True)):
            for k, part in enumerate(_tuple(self.function(*piece))):
                if i == 0 and self.joined[k]:
                    results.append(part.new_empty((rows, *part.shape[1:])))
                elif i == 0:
                    results.append(torch.zeros_like(part))
                if self.joined[k]:
                    results[k][i * self.size : i * self.size + part.shape[0]] = part
                else:
                    results[k] += part
        return tuple(results)

    def derivative(self, wanted: tuple[bool, ...]) -> _Plan:
        """The plan that finds the gradients of the wanted tensors from all tensors and the gradients of the results."""

        def gradients(*given: Tensor) -> tuple[Tensor, ...]:
            tensors, slopes = given[: len(self.split)], given[len(self.split) :]
            further = torch.is_grad_enabled()
            with torch.enable_grad():
                inputs = [
                    t.view_as(t) if further and t.requires_grad else t.detach().requires_grad_(want)
                    for t, want in zip(tensors, wanted, strict=True)
                ]
                results = _tuple(self.function(*inputs))
                chosen = [t for t, want in zip(inputs, wanted, strict=True) if want]
                pairs = [(r, s) for r, s in zip(results, slopes, strict=True) if r.requires_grad]
                return torch.autograd.grad(
                    [r for r, _ in pairs],
                    chosen,
                    [s for _, s in pairs],
                    create_graph=further,
                    allow_unused=True,
                    materialize_grads=True,
                )

        joined = tuple(split for split, want in zip(self.split, wanted, strict=True) if want)
        return _Plan(gradients, self.split + self.joined, joined, self.size)


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return plan.run(tensors)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        wanted = ctx.needs_input_grad[1:]
        plan, given = ctx.plan.derivative(wanted), (*ctx.saved_tensors, *slopes)
        if torch.is_grad_enabled():
            found = iter(_Recomputed.apply(plan, *given))  # pyright: ignore[reportArgumentType]
        else:
            found = iter(plan.run(given))
        return None, *(next(found) if want else None for want in wanted)
