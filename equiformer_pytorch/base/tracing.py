"""What is known while something traces the program."""

from __future__ import annotations

import torch
from torch import Tensor


def exporting() -> bool:
    """Whether ``torch.export`` is tracing. Values are not known then, so nothing may depend on them."""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    # torch < 2.7: of what traces, only export (strict=False) does without dynamo.
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def number_from_data(value: Tensor) -> int:
    """A count that is the value of a tensor; while exporting a symbol, said to be no less than zero."""
    number = value.item()
    if exporting():
        torch._check(number >= 0)
    return number  # pyright: ignore[reportReturnType]
