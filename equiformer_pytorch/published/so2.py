"""SO(2) linear maps of the published models: one matrix per order, over all degrees together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.ops.so2 import Block, BlockPlan, Scale, so2_product
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
        scales: None: :meth:`forward` takes none. True: one for each channel of a degree; False: of a degree and order.
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
        scales: bool | None = None,
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
        self.plan = self._plan(channels_in, scales)

    def _plan(self, channels_in: int, shared_scales: bool | None) -> BlockPlan:
        """Outputs: the message; and the invariants, if there are any."""
        blocks, scales, row, column, scale = [], [], 0, 0, 0
        every = (self.max_degree + 1) * channels_in
        for order in range(self.max_order + 1):
            signs = 1 + (order > 0)
            width = (self.max_degree + 1 - order) * channels_in
            rows = row, row + signs * width
            span = self._span(order)
            columns = column, column + signs * (span.stop - span.start)
            # Also those that give nothing: their weights get gradients, of zero.
            blocks.append(Block(rows, columns, paired=order > 0, bias=order == 0))
            first = order * channels_in if shared_scales else scale
            scales.append(Scale(rows, (first, every if shared_scales else scale + width), paired=order > 0))
            row, column, scale = rows[1], columns[1], scale + width
        if self.invariants:
            blocks.append(Block((0, every), (0, self.invariants), target=1, bias=True))
        targets = (column, *((self.invariants,) if self.invariants else ()))
        return BlockPlan(tuple(blocks), (row,), targets, () if shared_scales is None else tuple(scales))

    def forward(
        self, x: Float[Tensor, "edges rows channels"], scales: Float[Tensor, "edges scales"] | None = None
    ) -> tuple[Float[Tensor, "edges rows_out out"], Float[Tensor, "edges invariants"]]:
        """The product and the invariants; of w ⊙ x with `scales`, which have the same factors for +m and −m."""
        orders = cast(nn.ModuleList, self.get_submodule(self.orders_name))
        return self.of_weights(x, scales, self.fc_m0.weight, [cast(OrderLinear, entry).fc.weight for entry in orders])

    def of_weights(
        self,
        x: Float[Tensor, "edges rows channels"],
        scales: Float[Tensor, "edges scales"] | None,
        first: Float[Tensor, "_out _in"],
        others: Sequence[Float[Tensor, "_two_out _in"]],
    ) -> tuple[Float[Tensor, "edges rows_out out"], Float[Tensor, "edges invariants"]]:
        """The same with other weights: of order 0, and of the orders above."""
        matrices, biases = [], []
        weight, bias = first.mT, self.fc_m0.bias
        besides = [self.invariants, weight.shape[1] - self.invariants]
        (of_besides, of_message), (bias_besides, bias_message) = weight.split(besides, dim=1), bias.split(besides)
        for order in range(self.max_order + 1):
            span = self._span(order)
            if order == 0:
                matrices.append(of_message[:, span])
                biases.append(bias_message[span])
            else:
                pair = others[order - 1].mT
                kept = self.keep == (0, self.max_degree + 1)
                matrices.append(pair if kept else pair.unflatten(1, (2, -1))[:, :, span].flatten(1))
        if self.invariants:
            matrices.append(of_besides)
            biases.append(bias_besides)
        message, *found = so2_product(x.flatten(1), scales, matrices, biases, self.plan)
        return message.unflatten(1, (-1, self.channels_out)), found[0] if found else message[:, :0]

    def _span(self, order: int) -> slice:
        """The columns of one order's matrix, after its invariants, that give the kept degrees."""
        low, high = (max(degree - order, 0) * self.channels_out for degree in self.keep)
        return slice(low, high)
