"""Functions that keep nothing for the backward pass but their inputs, and run in pieces that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from equiformer_pytorch.ops.dispatch import traced
from equiformer_pytorch.ops.needed import needed

# Numbers per piece: 1 MiB in float32. Fresh pages for larger tensors cost more than the arithmetic on them.
PIECE = 2**18


Result = TypeVar("Result", Tensor, tuple[Tensor, ...])


def recomputed(function: Callable[..., Result], *tensors: Tensor) -> Result:
    """``function(*tensors)``, its intermediates computed again in the backward pass, for derivatives of any order.

    Derivatives are kept in the same way: what a second derivative needs of the first are again only its inputs.
    Under torch.compile, which decides by itself what to keep, and the transforms of torch.func, this is the plain call.
    """
    if traced():
        return function(*tensors)
    return _Recomputed.apply(_Plan(function, (False,) * len(tensors)), *tensors)  # pyright: ignore[reportReturnType]


def product_in_pieces(
    factors: Callable[..., tuple[Tensor, ...]],
    split: tuple[Tensor, ...],
    shared: tuple[Tensor, ...],
    width: int,
    least: int = 1,
) -> Tensor:
    """The matrix A times B, C, … side by side, (A, B, C, …) = ``factors(*split, *shared)``, in pieces of the rows of
    `split`; the factors are computed again in the backward pass, the product is not.

    The function must act on each row alone; it makes `width` numbers per row on the way. Pieces have at least `least`
    rows. A either has one matrix per row, or is one for all and carries no gradient.
    """
    flags = (True,) * len(split) + (False,) * len(shared)
    plan = _Plan(factors, flags, product=True, size=max(PIECE // max(width, 1), least))
    if traced():
        return plan.evaluate(*split, *shared)
    return _Recomputed.apply(plan, *split, *shared)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class _Plan:
    """A function of tensors; which of them are split by rows, in pieces of `size`, and which of its results belong to
    rows (all if None) and are joined, while others are summed. Without `size` there is one piece. With `product` the
    function gives the factors of its only result."""

    function: Callable[..., Any]
    split: tuple[bool, ...]
    joined: tuple[bool, ...] | None = None
    size: int | None = None
    product: bool = False

    def evaluate(self, *tensors: Tensor) -> Any:
        """All results of one piece."""
        results = self.function(*tensors)
        if not self.product:
            return results
        matrix, *factors = results
        products = [matrix @ factor for factor in factors]
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """All results, piece by piece."""
        rows = next((t.shape[0] for t, split in zip(tensors, self.split, strict=True) if split), 0)
        if self.size is None or rows <= self.size:
            return self.evaluate(*tensors)
        pieces = [
            t.split(self.size) if split else (t,) * -(-rows // self.size)
            for t, split in zip(tensors, self.split, strict=True)
        ]
        results: list[Tensor] = []
        if self.product and not torch.is_grad_enabled():
            return self._products(zip(*pieces, strict=True), rows)
        for i, piece in enumerate(zip(*pieces, strict=True)):
            for k, part in enumerate(_tuple(self.evaluate(*piece))):
                joined = self.joined is None or self.joined[k]
                if i == 0:
                    results.append(part.new_empty((rows, *part.shape[1:])) if joined else torch.zeros_like(part))
                if joined:
                    results[k][i * self.size : i * self.size + part.shape[0]] = part
                else:
                    results[k] += part
        return results[0] if len(results) == 1 else tuple(results)

    def _products(self, pieces: Iterable[tuple[Tensor, ...]], rows: int) -> Tensor:
        """All products, each written where it belongs."""
        result, first = None, 0
        for piece in pieces:
            matrix, *factors = self.function(*piece)
            factor = factors[0] if len(factors) == 1 else torch.cat(factors, dim=-1)
            if result is None:
                result = factor.new_empty(rows, matrix.shape[-2], factor.shape[-1])
            torch.matmul(matrix, factor, out=result[first : first + factor.shape[0]])
            first += factor.shape[0]
        return cast(Tensor, result)

    def derivative(self, wanted: tuple[bool, ...], results: int) -> _Plan:
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
                if self.product:
                    slopes = _slopes_of_factors(results, *slopes)
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
        return _Plan(gradients, self.split + (self.joined or (True,) * results), joined, self.size)


def _slopes_of_factors(factors: tuple[Tensor, ...], slope: Tensor) -> tuple[Tensor, ...]:
    """The gradients of (A, B, C, …) from that of A [B, C, …]."""
    matrix, *others = factors
    slopes = slope.split([factor.shape[-1] for factor in others], dim=-1)
    of_matrix = matrix
    if matrix.requires_grad:
        of_matrix = torch.stack([part @ factor.mT for part, factor in zip(slopes, others, strict=True)]).sum(0)
    return of_matrix, *(matrix.mT @ part for part in slopes)


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: _Plan, *tensors: Tensor) -> Any:
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return plan.run(tensors)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        tensors = ctx.saved_tensors  # once: what is computed again cannot be asked for twice
        _, *wanted = needed(ctx, (False, *(True for _ in tensors)))
        plan, given = ctx.plan.derivative(tuple(wanted), len(slopes)), (*tensors, *slopes)
        if torch.is_grad_enabled():
            found = iter(_tuple(_Recomputed.apply(plan, *given)))
        else:
            found = iter(_tuple(plan.run(given)))
        return None, *(next(found) if want else None for want in wanted)
