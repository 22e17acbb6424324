"""Which gradients a backward pass is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# Of torch's engine; not in all versions that we run on.
_WILL_EXECUTE = getattr(torch._C, "_will_engine_execute_node", None)


def needed(ctx: Any, tensors: Sequence[bool]) -> tuple[bool, ...]:
    """For each input of a function, in its backward pass, whether somebody wants its gradient.

    ``ctx.needs_input_grad`` says whether the input has one. A force, ``torch.autograd.grad(energy, positions)``, wants
    none of the weights', which are a third of the work.

    Args:
        ctx: of a ``torch.autograd.Function``.
        tensors: which of its inputs are tensors.
    """
    if _WILL_EXECUTE is None:
        return tuple(ctx.needs_input_grad)
    nodes = iter(ctx.next_functions)
    behind = [next(nodes)[0] if is_tensor else None for is_tensor in tensors]
    return tuple(
        needs and (node is None or _will_execute(node))
        for needs, node in zip(ctx.needs_input_grad, behind, strict=True)
    )


def _will_execute(node: Any) -> bool:
    try:
        return _WILL_EXECUTE(node)  # pyright: ignore[reportOptionalCall]
    except RuntimeError:  # a leaf whose gradient is asked for
        return True
