"""The point-wise half of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from equiformer_pytorch.graph.edges import Condition
from equiformer_pytorch.layers.activation import gated
from equiformer_pytorch.layers.condition import Conditioning
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import JointProduct, JointProducts, is_narrow, ungrouped
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm
from equiformer_pytorch.layers.rearranged import Matrices, Part, TakesMatrices
from equiformer_pytorch.so3.rows import component_degrees


def norm_columns(channels: Sequence[int]) -> Float64[Tensor, "width channels"]:
    """One where a column belongs to a channel of degree l ≥ 1, zero elsewhere."""
    fiber = Fiber(channels)
    found = torch.zeros(fiber.width, sum(fiber[1:]), dtype=torch.float64)
    found[torch.arange(fiber[0], fiber.width), fiber.channel_index()[fiber[0] :] - fiber[0]] = 1
    return found


class FeedForward(TakesMatrices):
    r"""Norm, linear to `mult` times the channels, gate, linear back. The gate is :math:`y_0 = \mathrm{SiLU}(x_0)`,
    :math:`y_l = x_l\,\sigma(g_l)` with gates g that come beside degree 0.

    With `include_htype_norms` degree 0 of the first map also sees the norms of the channels of degree l ≥ 1,
    smoothed at zero: :math:`\sqrt{\lVert x\rVert^2 + \epsilon^2} - \epsilon`, ε = 0.01.

    Args:
        fiber, fiber_out: of the features that come in and of those that go out, which may lack higher degrees.
        mult: how much wider the hidden layer is.
        include_htype_norms: see above.
        init_out_zero: the last map starts at zero.
        condition_dim: width of what is known of structures, embedded, where the layer sees it (:class:`Conditioning`).
    """

    smoothing = 1e-2
    inner: JointProduct | JointProducts
    outer: JointProduct | JointProducts

    def __init__(
        self,
        fiber: Fiber,
        fiber_out: Fiber | None = None,
        *,
        mult: int = 4,
        include_htype_norms: bool = False,
        init_out_zero: bool = True,
        condition_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden = Fiber(mult * channels for channels in fiber)
        self.fiber_in = Fiber((sum(fiber), *fiber[1:])) if include_htype_norms else fiber
        self.fiber = fiber
        self.include_htype_norms = include_htype_norms
        self.norm = Norm(fiber)
        self.condition = None if condition_dim is None else Conditioning(fiber, condition_dim)
        # Degree 0 holds its own values, then the gates of the others.
        self.project_in = Linear(self.fiber_in, Fiber((sum(self.hidden), *self.hidden[1:])), bias=True)
        self.project_out = Linear(self.hidden, fiber if fiber_out is None else fiber_out, zero=init_out_zero)

        self.narrow = is_narrow(self.fiber_in, [self.hidden, self.hidden])
        if self.narrow:
            self.inner = JointProduct([self.project_in], {0: self._gated_columns})
            self.outer = JointProduct([self.project_out])
        else:
            shapes = list(
                zip(self.fiber_in, self.hidden, (*self.project_out.fiber_out, *[0] * len(fiber)), strict=False)
            )
            every = (0, sum(self.hidden))
            self.inner = JointProducts([self.project_in], {0: (self.hidden[0], [every])}, shapes=shapes)
            self.outer = JointProducts([self.project_out], shapes=shapes)
            for index, (low, high) in enumerate(self.inner.groups):
                self.constant(f"degree_{index}", component_degrees, low, high)
        if include_htype_norms:
            self.constant("of_norm", norm_columns, tuple(fiber))

    def parts(self) -> list[Part]:
        """Norm, inner and outer maps."""
        return [
            (self.norm.spread_gain, [self.norm.gain]),
            (self.inner.build, self.inner.parameters_in_order()),
            (self.outer.build, self.outer.parameters_in_order()),
        ]

    def forward(
        self,
        x: Float[Tensor, "points width"],
        matrices: Matrices | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "points width_out"]:
        """`matrices` are those of :meth:`parts`; `condition` what is known of the structures, where they have any."""
        (gain,), for_inner, for_outer = self.own_matrices() if matrices is None else matrices
        x = self.norm(x, gain)
        if self.condition is not None:
            x = self.condition(x, condition)
        if self.include_htype_norms:
            x = self._with_norms(x)
        inner, outer = self.inner, self.outer
        if isinstance(inner, JointProduct) and isinstance(outer, JointProduct):
            (hidden,) = inner(x, for_inner)
            return outer(gated(hidden), for_outer)[0]
        inner, outer = cast(JointProducts, inner), cast(JointProducts, outer)
        (hidden,) = inner(inner.split(x), for_inner)
        gates = hidden.besides.sigmoid()
        activated = []
        for index, (group, (low, high)) in enumerate(zip(hidden.groups, inner.groups, strict=True)):
            first, channels = sum(self.hidden[:low]), self.hidden[low]
            of_degrees = gates if len(hidden.groups) == 1 else gates[:, first : first + (high - low) * channels]
            of_degrees = of_degrees.unflatten(1, (-1, channels))
            activated.append(group * of_degrees.index_select(1, self.get_buffer(f"degree_{index}")))
        return ungrouped(outer(activated, for_outer)[0].groups)

    def _with_norms(self, x: Float[Tensor, "points width"]) -> Float[Tensor, "points width_in"]:
        norms = ((x * x) @ self.cast("of_norm", x.dtype) + self.smoothing**2).sqrt() - self.smoothing
        return torch.cat((x[:, : self.fiber[0]], norms, x[:, self.fiber[0] :]), dim=1)

    def _gated_columns(self, columns: Float[Tensor, "rows width"]) -> Float[Tensor, "rows arranged"]:
        """The columns of `project_in` as the hidden feature and, for each of its components, the gate."""
        values, *gates = columns[:, : sum(self.hidden)].split(list(self.hidden), dim=1)
        higher = columns[:, sum(self.hidden) :]
        spread = [gate.repeat(1, 2 * degree + 1) for degree, gate in enumerate(gates, start=1)]
        return torch.cat((values, higher, values, *spread), dim=1)
