"""SO(2) linear maps of the published models: one matrix per order, over all degrees together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.published.linear import linear


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
        self, orders: Sequence[Float[Tensor, "edges columns"]]
    ) -> tuple[Float[Tensor, "edges rows_out out"], Float[Tensor, "edges invariants"]]:
        """The product, order-major, and the invariants; from one tensor per order, in which +m comes before −m, then
        the degrees, then the channels."""
        invariants, product = self._real(orders[0])
        outputs = [product]
        for order, x in enumerate(orders[1:], 1):
            outputs += self._complex(order, *x.chunk(2, dim=1))
        kept = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return kept.unflatten(1, (-1, self.channels_out)), invariants

    def _span(self, order: int) -> slice:
        """The rows of one order's weights, after its invariants, that give the kept degrees."""
        low, high = (max(degree - order, 0) * self.channels_out for degree in self.keep)
        return slice(low, high)

    def _real(
        self, x: Float[Tensor, "edges columns"]
    ) -> tuple[Float[Tensor, "edges invariants"], Float[Tensor, "edges out"]]:
        weight, bias, span = self.fc_m0.weight, self.fc_m0.bias, self._span(0)
        if self.keep != (0, self.max_degree + 1):
            weight = torch.cat((weight[: self.invariants], weight[self.invariants :][span]))
            bias = torch.cat((bias[: self.invariants], bias[self.invariants :][span]))
        product = F.linear(x, weight, bias)
        return product[:, : self.invariants], product[:, self.invariants :]

    def _complex(
        self, order: int, plus: Float[Tensor, "edges columns"], minus: Float[Tensor, "edges columns"]
    ) -> list[Float[Tensor, "edges out"]]:
        entry = self.get_submodule(self.orders_name)[order - 1]  # pyright: ignore[reportIndexIssue]
        weight, span = entry.fc.weight, self._span(order)
        if self.keep != (0, self.max_degree + 1):
            weight = weight.unflatten(0, (2, -1))[:, span].flatten(0, 1)
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            u_plus, v_plus = F.linear(plus, weight).chunk(2, dim=1)
            u_minus, v_minus = F.linear(minus, weight).chunk(2, dim=1)
            return [u_plus - v_minus, u_minus + v_plus]
        return list(_ComplexProduct.apply(plus, minus, weight))  # pyright: ignore[reportArgumentType]


class _ComplexProduct(torch.autograd.Function):
    """(U x₊ − V x₋, U x₋ + V x₊) by three real products instead of four (Gauss); derivatives of any order."""

    @staticmethod
    def forward(ctx, plus: Tensor, minus: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(plus, minus, weight)
        u, v = weight.chunk(2)
        shared = (plus + minus) @ u.T
        return shared - minus @ (u + v).T, shared + plus @ (v - u).T

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        slope_plus, slope_minus = slopes
        plus, minus, weight = ctx.saved_tensors
        u, v = weight.chunk(2)
        both = slope_plus + slope_minus
        of_plus = of_minus = of_weight = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            shared = both @ u
            of_plus = shared + slope_minus @ (v - u)
            of_minus = shared - slope_plus @ (u + v)
        if ctx.needs_input_grad[2]:
            of_sum, of_difference = -slope_plus.T @ minus, slope_minus.T @ plus
            of_u = both.T @ (plus + minus) + of_sum - of_difference
            of_weight = torch.cat((of_u, of_sum + of_difference))
        return of_plus, of_minus, of_weight
