"""Checks of what a caller passes. Errors name the argument, what came and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def check_type(name: str, value: object, hint: object, wanted: str) -> None:
    """TypeError unless `value` is of the type `hint`, in words `wanted`."""
    from beartype.door import is_bearable  # here, since importing it takes as long as the rest of the package

    if not is_bearable(value, hint):  # pyright: ignore[reportArgumentType]
        raise TypeError(f"{name} must be {wanted}, got {value!r} of type {type(value).__name__}")


def check_number(
    name: str,
    value: float | None,
    least: float,
    *,
    whole: bool = True,
    unbounded: bool = False,
    exclusive: bool = False,
) -> None:
    """ValueError or TypeError unless `value` is a number ≥ `least` (> with `exclusive`); None passes.

    An int where it must be `whole`; with `unbounded` infinity and whole floats pass too.
    """
    if value is None:
        return
    wanted = "a whole number" if whole else "a number"
    check_type(name, value, int if whole and not unbounded else int | float, wanted)
    if isinstance(value, bool) or (whole and math.isfinite(value) and value != int(value)):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if not (value > least if exclusive else value >= least):
        raise ValueError(f"{name} must be {'greater than' if exclusive else 'at least'} {least}, got {value!r}")


def per_degree(name: str, value: int | Sequence[int], degrees: int) -> tuple[int, ...]:
    """One entry per degree, from a number for all or a sequence."""
    check_type(name, value, int | Sequence, "a whole number or a sequence of them, one per degree")
    values = (value,) * degrees if isinstance(value, int) else tuple(value)
    for entry in values:
        check_type(name, entry, int, f"a whole number or a sequence of them, one per degree, in {value!r}")
        check_number(name, entry, 1)
    if len(values) != degrees:
        raise ValueError(f"{name} must have one entry for each of the {degrees} degrees, got {values}")
    return values


def check_shape(name: str, tensor: Tensor, wanted: Sequence[int | None], words: str) -> None:
    """ValueError unless the shape matches `wanted`, where None stands for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or any(w not in (None, s) for w, s in zip(wanted, shape, strict=True)):
        sizes = ", ".join("any" if w is None else str(w) for w in wanted)
        raise ValueError(f"{name} must have shape {words} = ({sizes}), got {shape}")


def check_tensor(name: str, value: object) -> Tensor:
    """TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    return value


def is_integer(tensor: Tensor) -> bool:
    """Whether the dtype is one of the integers (bool is not)."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_tokens(name: str, tokens: Tensor, count: int) -> Tensor:
    """The tokens as int64; ValueError unless they lie in 0 … count − 1."""
    tokens = tokens.long()
    if tokens.numel():
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= count:
            raise ValueError(f"{name} must lie in 0 … {count - 1}, got values from {low} to {high}")
    return tokens


def as_bool(name: str, tensor: Tensor) -> Bool[Tensor, ...]:
    """A bool tensor from bool or 0/1 numbers."""
    if tensor.dtype == torch.bool:
        return tensor
    if tensor.is_complex() or not bool(((tensor == 0) | (tensor == 1)).all()):
        raise ValueError(f"{name} must hold booleans or 0/1 numbers, got other values ({tensor.dtype})")
    return tensor != 0


def check_coordinates(coors: object) -> Tensor:
    """(b, n, 3) floating point, in at least float32."""
    coors = check_tensor("coors", coors)
    check_shape("coors", coors, (None, None, 3), "(batch, points, 3)")
    check_floating("coors", coors)
    return coors.float() if coors.dtype in (torch.float16, torch.bfloat16) else coors


def check_finite(name: str, x: Tensor) -> None:
    """ValueError where a real point has a NaN or an infinity."""
    finite = x.isfinite()
    if not bool(finite.all()):
        where = int((~finite).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{name} must be finite for every point that mask keeps, got {x[where].tolist()}")


def check_degrees(inputs: Tensor | Mapping[int, Tensor], degrees: int) -> dict[int, Tensor]:
    """The input features by degree, as a new dict."""
    if isinstance(inputs, Tensor):
        inputs = {0: inputs}
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs must be a tensor or a dict of tensors by degree, got {type(inputs).__name__}")
    if set(inputs) != set(range(degrees)):
        raise ValueError(
            f"inputs must have degrees 0 … {degrees - 1} (input_degrees = {degrees}), got {sorted(inputs)}"
        )
    return {degree: check_tensor(f"inputs[{degree}]", inputs[degree]) for degree in range(degrees)}


def check_floating(name: str, tensor: Tensor, why: str = "") -> None:
    """TypeError unless the dtype is a floating one."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point{' ' * bool(why)}{why}, got {tensor.dtype}")
