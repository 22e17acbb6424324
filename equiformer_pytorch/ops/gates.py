"""Gates of messages: factors of each degree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.ops.dispatch import operation, written_out


@operation
def gate_messages(
    messages: Float[Tensor, "receivers edges components_channels"],
    gates: Float[Tensor, "receivers edges higher_degrees_channels"],
    own: Float[Tensor, "receivers components_channels"] | None,
    own_gates: Float[Tensor, "receivers higher_degrees_channels"] | None,
    degrees: int,
) -> Float[Tensor, "receivers slots components_channels"]:
    r""":math:`m_0\,\sigma(m_0)` and :math:`m_l\,\sigma(g_l)` channel by channel, those of the receiver itself first, if
    any; derivatives of any order. Neither the gates of the components nor the parts before they are joined are kept.
    """
    if written_out(messages, gates):
        gated = _plain(messages, gates, degrees)
        if own is None or own_gates is None:
            return gated
        return torch.cat((_plain(own, own_gates, degrees)[:, None], gated), dim=1)
    given = () if own is None or own_gates is None else (own[:, None], own_gates[:, None])
    return _Gated.apply(degrees, *given, messages, gates)  # pyright: ignore[reportReturnType]


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
    """Of :func:`gate_messages`: messages and gates, one pair or two, side by side."""

    @staticmethod
    def forward(ctx: Any, degrees: int, *tensors: Tensor) -> Tensor:
        ctx.degrees = degrees
        ctx.save_for_backward(*tensors)
        rows, _, width = tensors[0].shape
        result = tensors[0].new_empty(rows, sum(x.shape[1] for x in tensors[::2]), width)
        for x, gates, part in _Gated.parts(tensors, result):
            (invariants, higher), (of_invariants, of_higher) = _apart(x, degrees), _apart(part, degrees)
            torch.ops.aten.silu.out(invariants, out=of_invariants)
            _write_scaled(higher, gates.sigmoid(), degrees, of_higher)
        return result

    @staticmethod
    def parts(tensors: tuple[Tensor, ...], joined: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Messages, gates, and what is theirs of what is joined."""
        pieces = joined.split([x.shape[1] for x in tensors[::2]], dim=1)
        return zip(tensors[::2], tensors[1::2], pieces, strict=True)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):
        found: list[Tensor] = []
        for x, gates, slope in _Gated.parts(ctx.saved_tensors, slopes[0]):
            (invariants, higher), (slope, of_higher) = _apart(x, ctx.degrees), _apart(slope, ctx.degrees)
            factors = gates.sigmoid()
            of_factors = _degree_sums(of_higher, higher, ctx.degrees)
            if torch.is_grad_enabled():
                of_parts = silu_slope(slope, invariants), _degree_products(of_higher, factors, ctx.degrees)
                found += [torch.cat(of_parts, dim=-1), of_factors * (factors * (1 - factors))]
                continue
            of_x = x.new_empty(x.shape)
            part, rest = _apart(of_x, ctx.degrees)
            torch.ops.aten.silu_backward.grad_input(slope, invariants, grad_input=part)
            _write_scaled(of_higher, factors, ctx.degrees, rest)
            found += [of_x, torch.ops.aten.sigmoid_backward(of_factors, factors)]
        return None, *found


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
