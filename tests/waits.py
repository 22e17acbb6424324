"""Counts how often the host waits for the device, on machines that have none to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result is a number, or has a size that is data.
OPERATIONS = (
    "_local_scalar_dense",
    "bincount",
    "masked_select",
    "nonzero",
    "unique",
    "_unique2",
    "unique_dim",
    "equal",
)


class _Functions(TorchFunctionMode):
    """`tolist` and `numpy` of a CPU tensor dispatch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy", "__array__"):
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in masks)
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in OPERATIONS or by_mask or counted:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def waits(call: Callable[[], Any]) -> list[str]:
    """The names of what is waited for."""
    with _Functions() as functions, _Operations() as operations:
        call()
    return functions.seen + operations.seen
