"""Which implementation of an operation runs: torch everywhere; a kernel where one is registered and fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]

P = ParamSpec("P")
R = TypeVar("R")


class Kernel(NamedTuple):
    """Another implementation of an operation, with the same contract."""

    fits: Callable[..., bool]
    """Whether it can take these arguments: device, dtype, shapes, whether gradients are wanted."""
    run: Callable[..., object]


KERNELS: dict[str, list[Kernel]] = {}
"""By the name of the operation; the first that fits runs."""


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of torch an operation that a kernel in :data:`KERNELS` can take over.

    While torch.compile, torch.export or a transform of torch.func traces, the function itself runs: they know it.
    """
    kernels = KERNELS.setdefault(function.__name__, [])

    @wraps(function)
    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        if kernels and not traced():
            for kernel in kernels:
                if kernel.fits(*args, **kwargs):
                    return kernel.run(*args, **kwargs)  # pyright: ignore[reportReturnType]
        return function(*args, **kwargs)

    return chosen


def register(name: str, kernel: Kernel) -> None:
    """Add a kernel for an operation, to be asked before those that are there.

    Raises:
        ValueError: there is no such operation.
    """
    if name not in KERNELS:
        raise ValueError(f"name must be one of the operations {sorted(KERNELS)}, got {name!r}")
    KERNELS[name].insert(0, kernel)


def written_out(*tensors: Tensor) -> bool:
    """Whether functions whose backward pass is our own are to run as plain operations: while something traces, and
    under autocast, which chooses dtypes operation by operation."""
    return traced(*tensors) or torch.is_autocast_enabled(tensors[0].device.type)


def traced(*tensors: Tensor) -> bool:
    """Whether something traces: compilers decide by themselves what to keep, and the transforms of
    torch.func, and gradients in batches (``is_grads_batched``), cannot look into a function of our own."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return any(_functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
