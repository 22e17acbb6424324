"""Nonlinearities of features: gates, and pointwise functions of samples on a sphere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.ops.dispatch import traced
from equiformer_pytorch.ops.gates import silu_slope
from equiformer_pytorch.ops.recompute import product_in_pieces
from equiformer_pytorch.published.sphere_grid import SphereGrid
from equiformer_pytorch.so3.rows import add_scalars, degree_index, order_major_rows


@dataclass(frozen=True)
class Pointwise:
    """A function of each sample by itself, and the gradient of its argument from that of its value. Spelt out, since
    autograd in each piece takes longer and computes the function's value once more."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.value(x)


def swiglu(x: Float[Tensor, "*points two_channels"]) -> Float[Tensor, "*points channels"]:
    """SiLU of the first half of the channels times the second (Shazeer 2020)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def swiglu_slope(
    slope: Float[Tensor, "*points channels"], x: Float[Tensor, "*points two_channels"]
) -> Float[Tensor, "*points two_channels"]:
    """The gradient of x from that of :func:`swiglu`."""
    gate, value = x.chunk(2, dim=-1)
    return torch.cat((silu_slope(slope * value, gate), slope * F.silu(gate)), dim=-1)


def square(x: Float[Tensor, "*points two_channels"]) -> Float[Tensor, "*points channels"]:
    """The first half of the channels times the second."""
    one, other = x.chunk(2, dim=-1)
    return one * other


def square_slope(
    slope: Float[Tensor, "*points channels"], x: Float[Tensor, "*points two_channels"]
) -> Float[Tensor, "*points two_channels"]:
    """The gradient of x from that of :func:`square`."""
    one, other = x.chunk(2, dim=-1)
    return torch.cat((slope * other, slope * one), dim=-1)


SILU = Pointwise(F.silu, silu_slope)
SWIGLU = Pointwise(swiglu, swiglu_slope)
SQUARE = Pointwise(square, square_slope)


class _OfSamples(torch.autograd.Function):
    """F φ(T x) in pieces, of which only x is kept; derivatives of any order."""

    @staticmethod
    def forward(ctx, x: Tensor, to: Tensor, back: Tensor, pointwise: Pointwise) -> Tensor:
        ctx.save_for_backward(x, to, back)
        ctx.pointwise = pointwise
        return of_samples(x, to, back, pointwise)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        x, to, back = ctx.saved_tensors
        of_x = product_in_pieces(
            lambda slope, x, to, back: (to.mT, ctx.pointwise.slope(back.mT @ slope, to @ x)),
            (slopes[0], x),
            (to, back),
            to.shape[0] * x.shape[2],
        )
        return of_x, None, None, None


def of_samples(
    x: Float[Tensor, "points rows channels"],
    to: Float[Tensor, "samples rows"],
    back: Float[Tensor, "rows_out samples"],
    pointwise: Pointwise,
) -> Float[Tensor, "points rows_out out"]:
    """F φ(T x) in pieces."""
    return product_in_pieces(lambda x, to, back: (back, pointwise(to @ x)), (x,), (to, back), to.shape[0] * x.shape[2])


class _Gated(torch.autograd.Function):
    """SiLU of the invariants, the higher degrees times the sigmoids of their gates; keeps what it is given alone, and
    makes no tensor of gates for each row. Derivatives of any order."""

    @staticmethod
    def forward(ctx, x: Tensor, scalars: Tensor, degree: Tensor, rows: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, scalars, degree)
        ctx.rows = rows
        return _gated(x, scalars.sigmoid(), F.silu(x[:, 0]), degree, rows)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        (slope,), (x, scalars, degree) = slopes, ctx.saved_tensors
        gates = scalars.sigmoid()
        of_x = _gated(slope, gates, silu_slope(slope[:, 0], x[:, 0]), degree, ctx.rows)
        of_gates = _GateSlope.apply(slope, x, degree, ctx.rows, scalars.shape[1])
        return of_x, of_gates * gates * (1 - gates), None, None


class _GateSlope(torch.autograd.Function):
    """Σ over the rows of each degree of slope ⊙ x: the gradient of the gates."""

    @staticmethod
    def forward(ctx, slope: Tensor, x: Tensor, degree: Tensor, rows: tuple[int, ...], width: int) -> Tensor:
        ctx.save_for_backward(slope, x, degree)
        ctx.rows = rows
        found = slope.new_zeros(slope.shape[0], width // x.shape[2], x.shape[2])
        for row, of_degree in enumerate(rows, start=1):
            found[:, of_degree].addcmul_(slope[:, row], x[:, row])
        return found.flatten(1)

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        (given,), (slope, x, degree) = slopes, ctx.saved_tensors
        none = torch.zeros_like(x[:, 0])
        return _gated(x, given, none, degree, ctx.rows), _gated(slope, given, none, degree, ctx.rows), None, None, None


def _gated(
    x: Float[Tensor, "points rows channels"],
    gates: Float[Tensor, "points gates"],
    first: Float[Tensor, "points channels"],
    degree: Int[Tensor, " others"],
    rows: tuple[int, ...],
) -> Float[Tensor, "points rows channels"]:
    """`first`, then the other rows times the gates of their degree: `degree`, and `rows` in numbers, which no device
    is waited for."""
    of_degrees = gates.unflatten(1, (-1, x.shape[2]))
    if torch.is_grad_enabled():
        return torch.cat((first[:, None], x[:, 1:] * of_degrees.index_select(1, degree)), dim=1)
    found = torch.empty_like(x)
    found[:, 0] = first
    for row, of_degree in enumerate(rows, start=1):
        torch.mul(x[:, row], of_degrees[:, of_degree], out=found[:, row])
    return found


@dataclass(frozen=True)
class Kind:
    """What an activation's published name stands for."""

    pointwise: Pointwise
    """Applied to samples on the sphere and, in the separable kinds, to invariants that come beside the features."""
    scalars: str = "none"
    """What becomes of these invariants: "none", "replace" the result's, "add" to them."""
    halves: bool = False
    """Whether `pointwise` takes twice the channels it gives."""
    gated: bool = False
    """gates2: the samples of both halves are multiplied, and the result by a sigmoid of further invariants."""


GATE = "gate"
KINDS = {
    "s2": Kind(SILU),
    "sep_s2": Kind(SILU, "replace"),
    "s2_swiglu": Kind(SWIGLU, halves=True),
    "sep_s2_swiglu": Kind(SWIGLU, "replace", halves=True),
    "sep-merge_s2_swiglu": Kind(SWIGLU, "add", halves=True),
    "sep_s2_square": Kind(SQUARE, "replace", halves=True),
    "sep-merge_gates2_swiglu": Kind(SWIGLU, "add", halves=True, gated=True),
}
# Published names with this ending keep less for the backward pass; here all do.
LEAN = "_mem"
NAMES = (GATE, *KINDS, *(name + LEAN for name in KINDS if "swiglu" in name))


def check_activation(argument: str, name: str) -> None:
    """ValueError unless the name is a published one."""
    if name not in NAMES:
        raise ValueError(f"{argument} must be one of {', '.join(NAMES)}; got {name!r}")


def channel_factor(name: str) -> int:
    """How many times the hidden channels the activation takes."""
    return 2 if name != GATE and KINDS[name.removesuffix(LEAN)].halves else 1


def scalar_channels(name: str, channels: int, max_degree: int) -> int:
    """How many invariants the activation takes beside features that it turns into `channels` per component."""
    if name == GATE:
        return max_degree * channels
    kind = KINDS[name.removesuffix(LEAN)]
    if kind.scalars == "none":
        return 0
    return (2 if kind.halves else 1) * channels + (channels if kind.gated else 0)


def gated_rows(max_degree: int, max_order: int, order_major: bool) -> Int[Tensor, " rows"]:
    """The gate of each row but the first, which is of degree 0."""
    rows = (
        [degree for degree, _ in order_major_rows(max_degree, max_order)] if order_major else degree_index(max_degree)
    )
    return torch.tensor(rows[1:], dtype=torch.long) - 1


class Activation(ExactConstants):
    r"""The activation of a published name, of features x and of the invariants s that come beside them.

    - ``gate``: SiLU of the invariants of x, and the higher degrees times a sigmoid of s, one per degree and channel.
    - ``s2``: :math:`F\,φ(T x)` on a grid, φ = SiLU; ``_swiglu``, ``_square``: φ of two halves of the channels.
    - ``sep_``: the invariants of the result are φ(s) instead; ``sep-merge_``: φ(s) is added to them.
    - ``gates2_swiglu``: the halves of the samples are multiplied, and the result is gated by a sigmoid of the last
      third of s. No transcendental function meets the samples, so a grid that integrates products is exact.

    (EquiformerV2, section 4.4; EquiformerV3, SwiGLU-S².) Exactly equivariant are gate, square and gates2.

    Args:
        name: one of the above, endings and beginnings combined; ``_mem`` at the end changes nothing.
        max_degree, max_order: of the features.
        resolution: latitudes and longitudes of the grid; None for gates, which need none.
        order_major: whether the features are those of edges in their frames, or degree-major.
        integral: how harmonics on the grid are normalised.
        dropout: of what comes out of the sigmoid, of φ(s) and of the samples, as published.
    """

    def __init__(
        self,
        name: str,
        max_degree: int,
        max_order: int,
        resolution: Sequence[int] | None,
        *,
        order_major: bool,
        integral: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.gate, self.dropout = name == GATE, dropout
        if self.gate:
            self.constant("degree", gated_rows, max_degree, max_order, order_major)
            self.max_degree = max_degree
            with torch.device("cpu"):
                self.rows = tuple(gated_rows(max_degree, max_order, order_major).tolist())
            return
        self.kind = KINDS[name.removesuffix(LEAN)]
        product = dropout == 0.0 and (self.kind.gated or self.kind.pointwise is SQUARE)
        self.grid = SphereGrid(
            max_degree, max_order, resolution, order_major=order_major, product=product, integral=integral
        )

    def forward(
        self, x: Float[Tensor, "points rows channels"], scalars: Float[Tensor, "points scalars"]
    ) -> Float[Tensor, "points rows out"]:
        """What becomes of the features `x`; `scalars` are the invariants s beside them."""
        if self.gate and self.max_degree == 0:
            return self._drop(F.silu(x))
        if self.gate:
            degree = self.get_buffer("degree")
            if not traced(x) and not (self.training and self.dropout > 0.0):
                return _Gated.apply(x, scalars, degree, self.rows)  # pyright: ignore[reportReturnType]
            gates = self._drop(scalars.sigmoid()).unflatten(1, (self.max_degree, -1))
            higher = x[:, 1:] * gates.index_select(1, degree)
            return torch.cat((self._drop(F.silu(x[:, :1])), higher), dim=1)
        if self.kind.gated:
            mixed, gate = scalars.split([x.shape[2], x.shape[2] // 2], dim=1)
            return add_scalars(self._on_grid(x, SQUARE) * gate.sigmoid()[:, None], self._drop(swiglu(mixed)))
        if self.kind.scalars == "none":
            return self._on_grid(x, self.kind.pointwise)
        invariants = self._drop(self.kind.pointwise(scalars))
        if self.kind.scalars == "add":
            return add_scalars(self._on_grid(x, self.kind.pointwise), invariants)
        return torch.cat((invariants[:, None], self._on_grid(x, self.kind.pointwise, first=1)), dim=1)

    def _on_grid(
        self, x: Float[Tensor, "points rows channels"], pointwise: Pointwise, first: int = 0
    ) -> Float[Tensor, "points rows_out out"]:
        """F φ(T x), from row `first` on."""
        to, back = self.grid.matrices(x.dtype)
        back = back[first:]
        if self.training and self.dropout > 0.0:
            return back @ self._drop(pointwise(to @ x))
        if traced():
            return of_samples(x, to, back, pointwise)
        return _OfSamples.apply(x, to, back, pointwise)  # pyright: ignore[reportReturnType]

    def _drop(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        return F.dropout(x, self.dropout, self.training)
