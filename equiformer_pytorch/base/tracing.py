"""What is known while something traces or transforms the program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]


def exporting() -> bool:
    """Whether ``torch.export`` is tracing. Values are not known then, so nothing may depend on them."""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    # torch < 2.7: of what traces, only export (strict=False) does without dynamo.
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


# Whether what traces can trace derivatives.
_DERIVATIVES: ContextVar[bool] = ContextVar("_DERIVATIVES", default=False)


@contextmanager
def tracing_with_derivatives() -> Iterator[None]:
    """Within, :func:`exporting` holds for ``make_fx``, which can trace derivatives; ``torch.export`` cannot."""
    compiler: Any = torch.compiler
    before, token = (compiler._is_compiling_flag, compiler._is_exporting_flag), _DERIVATIVES.set(True)
    compiler._is_compiling_flag = compiler._is_exporting_flag = True
    try:
        yield
    finally:
        compiler._is_compiling_flag, compiler._is_exporting_flag = before
        _DERIVATIVES.reset(token)


def check_derivative_can_be_traced() -> None:
    """ValueError while ``torch.export`` traces."""
    if exporting() and not _DERIVATIVES.get():
        raise ValueError(
            "forces and stress that are a gradient cannot be traced by torch.export:"
            " equiformer_pytorch.atoms.export_potential can, or pass forces=False and stress=False"
        )


def number_from_data(value: Tensor, least: int = 0) -> int:
    """A count that is the value of a tensor; while exporting a symbol, said to be no less than `least`."""
    number = value.item()
    if exporting():
        torch.ops.aten.sym_constrain_range(number, min=least)  # unlike torch._check, a part of what is traced
    return number  # pyright: ignore[reportReturnType]


def transforming() -> bool:
    """Whether a transform of ``torch.func`` is at work, in which ``torch.autograd.grad`` has no place."""
    return torch._C._are_functorch_transforms_active()


def plain(x: Tensor) -> Tensor:
    """The values of a tensor, taken out of the transforms of ``torch.func`` and out of the graph.

    Every dimension that ``torch.vmap`` hides comes first. Dynamo keeps its own account of transforms.
    """
    if torch.compiler.is_dynamo_compiling():
        return x.detach()
    while _functorch.is_functorch_wrapped_tensor(x):
        hidden = _functorch.maybe_get_bdim(x) if _functorch.is_batchedtensor(x) else 0
        x = _functorch.get_unwrapped(x).movedim(hidden, 0) if hidden else _functorch.get_unwrapped(x)
    return x.detach()


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Within, no transform of ``torch.func`` is at work: what is computed from :func:`plain` values stays plain."""
    layers = []
    try:
        while _functorch.peek_interpreter_stack() is not None:
            layers.append(_functorch.pop_dynamic_layer_stack())
        yield
    finally:
        while layers:
            _functorch.push_dynamic_layer_stack(layers.pop())


def is_mapped(x: Tensor) -> bool:
    """Whether ``torch.vmap`` hides a dimension of it, so that it has no one value."""
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


@contextmanager
def lasting_tensors() -> Iterator[None]:
    """Within, also where the caller is in inference mode, tensors are ordinary ones: they can be differentiated, and
    used when that mode is over. Gradients are recorded as outside."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def lasting(x: Tensor) -> Tensor:
    """A tensor that can be differentiated: one that was made in inference mode is copied."""
    return x.clone() if not torch.compiler.is_compiling() and x.is_inference() else x
