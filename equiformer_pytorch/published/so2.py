"""SO(2) linear maps of the published models: one matrix per order, over all degrees together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.published.linear import linear
from equiformer_pytorch.published.pieces import plain


class OrderLinear(nn.Module):
    """The weights (U, V) of one order m > 0, stacked."""

    def __init__(self, channels_in: int, channels_out: int, normal: bool) -> None:
        super().__init__()
        self.fc = linear(channels_in, 2 * channels_out, bias=False, normal=normal)
        if not normal:
            with torch.no_grad():
                self.fc.weight *= 2**-0.5


class SO2Linear(nn.Module):
    r"""For each order m a matrix that mixes the channels of all degrees l ≥ m; for m > 0 a complex one,

    .. math:: y_{+m} = U_m x_{+m} - V_m x_{-m}, \qquad y_{-m} = U_m x_{-m} + V_m x_{+m}

    (Passaro & Zitnick 2023, section 3.2). Rows are order-major. `invariants` channels come out of m = 0 besides.

    Args:
        orders: the name that the published parameters of orders m > 0 have.
        keep: (first, last + 1) of the degrees that are wanted; others are not computed, their weights get zero
            gradients.
        normal: see :func:`~.linear.init_linear`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        max_degree: int,
        max_order: int,
        *,
        orders: str,
        invariants: int = 0,
        keep: tuple[int, int] | None = None,
        normal: bool = False,
    ) -> None:
        super().__init__()
        self.max_degree, self.max_order = max_degree, max_order
        self.channels_out, self.invariants = channels_out, invariants
        self.keep = (0, max_degree + 1) if keep is None else keep
        degrees = max_degree + 1
        self.fc_m0 = linear(degrees * channels_in, invariants + degrees * channels_out, normal=normal)
        self.orders_name = orders
        self.add_module(
            orders,
            nn.ModuleList(
                OrderLinear((degrees - m) * channels_in, (degrees - m) * channels_out, normal)
                for m in range(1, max_order + 1)
            ),
        )

    def forward(
        self, x: Float[Tensor, "edges rows channels"], scales: Sequence[Float[Tensor, "edges columns"]] | None = None
    ) -> tuple[Float[Tensor, "edges rows_out out"], Float[Tensor, "edges invariants"]]:
        """The product and the invariants. With `scales`, of w ⊙ x, where w has the same factors for +m and −m: one
        tensor per order, its columns the degrees and their channels."""
        sizes = [self.max_degree + 1 - order for order in range(self.max_order + 1)]
        parts = [part.flatten(1) for part in x.split([sizes[0], *(n for n in sizes[1:] for _ in (1, -1))], dim=1)]
        scaled = [None] * len(sizes) if scales is None else scales
        invariants, product = self._real(parts[0], scaled[0])
        outputs = [product]
        for order in range(1, len(sizes)):
            outputs += self._complex(order, parts[2 * order - 1], parts[2 * order], scaled[order])
        kept = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return kept.unflatten(1, (-1, self.channels_out)), invariants

    def _span(self, order: int) -> slice:
        """The rows of one order's weights, after its invariants, that give the kept degrees."""
        low, high = (max(degree - order, 0) * self.channels_out for degree in self.keep)
        return slice(low, high)

    def _real(
        self, x: Float[Tensor, "edges columns"], scale: Float[Tensor, "edges columns"] | None
    ) -> tuple[Float[Tensor, "edges invariants"], Float[Tensor, "edges out"]]:
        weight, bias, span = self.fc_m0.weight, self.fc_m0.bias, self._span(0)
        if self.keep != (0, self.max_degree + 1):
            weight = torch.cat((weight[: self.invariants], weight[self.invariants :][span]))
            bias = torch.cat((bias[: self.invariants], bias[self.invariants :][span]))
        if scale is None or plain():
            product = F.linear(_scaled(x, scale), weight, bias)
        else:
            product = _ScaledProduct.apply(x, scale, weight, bias)
        invariants, product = product.split([self.invariants, product.shape[1] - self.invariants], dim=1)
        return invariants, product

    def _complex(
        self,
        order: int,
        plus: Float[Tensor, "edges columns"],
        minus: Float[Tensor, "edges columns"],
        scale: Float[Tensor, "edges columns"] | None,
    ) -> tuple[Float[Tensor, "edges out"], Float[Tensor, "edges out"]]:
        entry = self.get_submodule(self.orders_name)[order - 1]  # pyright: ignore[reportIndexIssue]
        weight, span = entry.fc.weight, self._span(order)
        if self.keep != (0, self.max_degree + 1):
            weight = weight.unflatten(0, (2, -1))[:, span].flatten(0, 1)
        if not plain():
            return _ComplexProduct.apply(plus, minus, scale, weight)  # pyright: ignore[reportReturnType]
        u_plus, v_plus = F.linear(_scaled(plus, scale), weight).chunk(2, dim=1)
        u_minus, v_minus = F.linear(_scaled(minus, scale), weight).chunk(2, dim=1)
        return u_plus - v_minus, u_minus + v_plus


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class _ScaledProduct(torch.autograd.Function):
    """(w ⊙ x) Wᵀ + b, of which only the factors are kept; derivatives of any order."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, weight)
        return F.linear(x * scale, weight, bias)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        x, scale, weight = ctx.saved_tensors
        wants_x, wants_scale, wants_weight, wants_bias = ctx.needs_input_grad
        of_x = of_scale = None
        if wants_x or wants_scale:
            of_scaled = slopes[0] @ weight
            of_x, of_scale = of_scaled * scale, of_scaled * x
        of_weight = slopes[0].T @ (x * scale) if wants_weight else None
        return of_x, of_scale, of_weight, slopes[0].sum(0) if wants_bias else None


class _ComplexProduct(torch.autograd.Function):
    """(U x₊ − V x₋, U x₋ + V x₊) of w ⊙ x by three real products instead of four (Gauss); derivatives of any order.

    Only the factors w and x are kept.
    """

    @staticmethod
    def forward(ctx, plus: Tensor, minus: Tensor, scale: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(plus, minus, scale, weight)
        u, v = weight.chunk(2)
        plus, minus = _scaled(plus, scale), _scaled(minus, scale)
        shared = (plus + minus) @ u.T
        return torch.addmm(shared, minus, (u + v).T, alpha=-1), shared.addmm_(plus, (v - u).T)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        slope_plus, slope_minus = slopes
        plus, minus, scale, weight = ctx.saved_tensors
        u, v = weight.chunk(2)
        both = slope_plus + slope_minus
        of_plus = of_minus = of_scale = of_weight = None
        if any(ctx.needs_input_grad[:3]):
            shared = both @ u
            of_plus = torch.addmm(shared, slope_minus, v - u)
            of_minus = torch.addmm(shared, slope_plus, u + v, alpha=-1)
            if scale is not None:
                of_scale = torch.addcmul(of_plus * plus, of_minus, minus)
                of_plus, of_minus = of_plus * scale, of_minus * scale
        if ctx.needs_input_grad[3]:
            plus, minus = _scaled(plus, scale), _scaled(minus, scale)
            one, other = slope_plus.T @ minus, slope_minus.T @ plus
            of_weight = torch.cat((both.T @ (plus + minus) - (one + other), other - one))
        return of_plus, of_minus, of_scale, of_weight
