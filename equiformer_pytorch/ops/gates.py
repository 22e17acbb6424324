"""Gates of messages: factors of each degree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import operation, traced, written_out


@operation
def gate_messages(
    messages: Float[Tensor, "receivers edges components_channels"],
    gates: Float[Tensor, "receivers edges higher_degrees_channels"],
    own: Float[Tensor, "receivers components_channels"] | None,
    degrees: int,
) -> Float[Tensor, "receivers slots components_channels"]:
    r""":math:`m_0\,\sigma(m_0)` and :math:`m_l\,\sigma(g_l)` channel by channel, after the message of the receiver to
    itself, if any, as it is; derivatives of any order. Neither the gates of the components nor the parts before they
    are joined are kept.
    """
    if written_out(messages, gates):
        gated = _plain(messages, gates, degrees)
        return gated if own is None else torch.cat((own[:, None], gated), dim=1)
    return _Gated.apply(degrees, messages, gates, own)[0]  # pyright: ignore[reportOptionalSubscript]


def silu_slope(slope: Float[Tensor, "*points"], x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """The gradient of x from that of SiLU(x)."""
    if torch.is_grad_enabled():
        sigmoid = x.sigmoid()
        return slope * sigmoid * (1 + x * (1 - sigmoid))
    return torch.ops.aten.silu_backward(slope, x)  # one pass, but without a derivative of its own


def _plain(x: Tensor, gates: Tensor, degrees: int) -> Tensor:
    """In plain operations."""
    invariants, higher = _apart(x, degrees)
    return torch.cat((F.silu(invariants), _scaled(higher, gates.sigmoid(), degrees)), dim=-1)


def _apart(x: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """Degree 0, and the components of the others."""
    channels = x.shape[-1] // degrees**2
    return x[..., :channels], x[..., channels:]


class _Gated(torch.autograd.Function):
    """Of :func:`gate_messages`. The sigmoids are a result, too: the gradient is a function of them, through which the
    next order goes."""

    @staticmethod
    def forward(
        ctx: Any, degrees: int, x: Tensor, gates: Tensor, own: Tensor | None
    ) -> tuple[Tensor, Float[Tensor, "receivers edges higher_degrees_channels"]]:
        before = 0 if own is None else 1
        result = x.new_empty(x.shape[0], before + x.shape[1], x.shape[2])
        if own is not None:
            result[:, 0].copy_(own)
        (invariants, higher), (of_invariants, of_higher) = _apart(x, degrees), _apart(result[:, before:], degrees)
        factors = gates.sigmoid()
        torch.ops.aten.silu.out(invariants, out=of_invariants)
        _write_scaled(higher, factors, degrees, of_higher)
        ctx.degrees, ctx.before = degrees, before
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, factors)
        return result, factors

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None):
        x, factors = ctx.saved_tensors
        of_result, of_factors = slopes
        if of_result is None:
            of_result = x.new_zeros(x.shape[0], ctx.before + x.shape[1], x.shape[2])
        (invariants, higher) = _apart(x, ctx.degrees)
        (slope, of_higher) = _apart(of_result[:, ctx.before :], ctx.degrees)
        products = _degree_sums(of_higher, higher, ctx.degrees)
        of_factors = products if of_factors is None else of_factors + products
        if torch.is_grad_enabled() or traced(of_result):
            of_parts = silu_slope(slope, invariants), _degree_products(of_higher, factors, ctx.degrees)
            of_x, of_gates = torch.cat(of_parts, dim=-1), of_factors * (factors * (1 - factors))
        else:
            of_x = x.new_empty(x.shape)
            of_invariants, of_components = _apart(of_x, ctx.degrees)
            torch.ops.aten.silu_backward.grad_input(slope, invariants, grad_input=of_invariants)
            _write_scaled(of_higher, factors, ctx.degrees, of_components)
            of_gates = torch.ops.aten.sigmoid_backward(of_factors, factors)
        return None, of_x, of_gates, of_result[:, 0] if ctx.before else None


def _degree_products(x: Tensor, factors: Tensor, degrees: int) -> Tensor:
    """The components of each degree above 0 times its factors, channel by channel; derivatives of any order."""
    if written_out(x, factors):
        return _scaled(x, factors, degrees)
    return _Scaled.apply(degrees, x, factors)  # pyright: ignore[reportReturnType]


def _degree_sums(x: Tensor, y: Tensor, degrees: int) -> Tensor:
    """Of the products of two features, over the components of each degree above 0; derivatives of any order."""
    if written_out(x, y):
        products = _by_degree(x * y, None, degrees)
        return torch.cat([x[..., :0], *(of_degree.sum(-2) for of_degree, _ in products)], dim=-1)
    return _Summed.apply(degrees, x, y)  # pyright: ignore[reportReturnType]


def _by_degree(x: Tensor, factors: Tensor | None, degrees: int) -> Iterator[tuple[Tensor, Any]]:
    """Of each degree above 0 (rows, components, channels), and (rows, 1, channels) of the factors, where given."""
    channels = x.shape[-1] // max(degrees**2 - 1, 1)
    for degree in range(1, degrees):
        first, end = (degree**2 - 1) * channels, ((degree + 1) ** 2 - 1) * channels
        part = x[..., first:end].unflatten(-1, (-1, channels))
        yield part, None if factors is None else factors[..., None, (degree - 1) * channels : degree * channels]


def _scaled(x: Tensor, factors: Tensor, degrees: int) -> Tensor:
    """In plain operations."""
    parts = [(of_degree * factor).flatten(-2) for of_degree, factor in _by_degree(x, factors, degrees)]
    return torch.cat([x[..., :0], *parts], dim=-1)


def _write_scaled(x: Tensor, factors: Tensor, degrees: int, result: Tensor) -> None:
    """Each degree where it belongs."""
    outputs = _by_degree(result, None, degrees)
    for (of_degree, factor), (output, _) in zip(_by_degree(x, factors, degrees), outputs, strict=True):
        torch.mul(of_degree, factor, out=output)


class _Scaled(torch.autograd.Function):
    """Of :func:`_degree_products`; the factors are not spelled out for the components."""

    @staticmethod
    def forward(ctx: Any, degrees: int, x: Tensor, factors: Tensor) -> Tensor:
        ctx.degrees = degrees
        ctx.save_for_backward(x, factors)
        result = x.new_empty(x.shape)
        _write_scaled(x, factors, degrees, result)
        return result

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        x, factors = ctx.saved_tensors
        of_x = _degree_products(slopes[0], factors, ctx.degrees) if ctx.needs_input_grad[1] else None
        of_factors = _degree_sums(slopes[0], x, ctx.degrees) if ctx.needs_input_grad[2] else None
        return None, of_x, of_factors


class _Summed(torch.autograd.Function):
    """Of the products of two features; keeps the features."""

    @staticmethod
    def forward(ctx: Any, degrees: int, x: Tensor, y: Tensor) -> Tensor:
        ctx.degrees = degrees
        ctx.save_for_backward(x, y)
        channels = x.shape[-1] // max(degrees**2 - 1, 1)
        result = x.new_empty(*x.shape[:-1], (degrees - 1) * channels)
        for product, output in _by_degree(x * y, result, degrees):
            torch.sum(product, dim=-2, keepdim=True, out=output)
        return result

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        x, y = ctx.saved_tensors
        of_x = _degree_products(y, slopes[0], ctx.degrees) if ctx.needs_input_grad[1] else None
        of_y = _degree_products(x, slopes[0], ctx.degrees) if ctx.needs_input_grad[2] else None
        return None, of_x, of_y
