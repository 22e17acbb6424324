"""What a training step and a call do, counted: operations, bytes that they write, waits for the device.

Counts do not depend on the machine or on what else it does. ``python -m benchmarks.counts``
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# What makes the host wait for the device, since its result is a number or has a size that is data.
WAITS = {
    "aten._local_scalar_dense",
    "aten.bincount",
    "aten.masked_select",
    "aten.nonzero",
    "aten.unique_consecutive",
    "aten._unique2",
    "aten.unique_dim",
    "aten.equal",
    "aten.is_nonzero",
}
# Neither compute nor write: memory, and views that no flag marks as such.
FREE = {
    "aten._unsafe_view",
    "aten.detach",
    "aten.empty",
    "aten.empty_like",
    "aten.empty_strided",
    "aten.lift_fresh",
    "aten.new_empty",
    "aten.new_empty_strided",
}


@dataclass
class Counts(TorchDispatchMode):
    """Counts what is dispatched within it."""

    operations: int = 0
    written: int = 0
    waits: int = 0
    names: Counter[str] = field(default_factory=Counter)
    bytes_by_name: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket._qualified_op_name.replace("::", ".")
        self.waits += _waits(name, args)
        if name in FREE or name.startswith("prim.") or func.is_view:
            return result
        written = sum(t.numel() * t.element_size() for t in _tensors(result))
        if name != "aten._local_scalar_dense":
            self.operations += 1
            self.names[name] += 1
            self.written += written
            self.bytes_by_name[name] += written
        return result


def _waits(name: str, args: tuple) -> int:
    """How often the host waits for this operation."""
    if name in WAITS:
        return 1
    if name == "aten.index" or name.startswith("aten.index_put") or name == "aten._index_put_impl_":
        return sum(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    return int(name == "aten.repeat_interleave" and len(args) == 1)


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _tensors(part)] if isinstance(result, list | tuple) else []


def counted(function: Callable[[], Any]) -> Counts:
    """What `function` does."""
    with Counts() as counts:
        function()
    return counts
