"""Arguments of the published models: fields of a dataclass that say what may be in them, and checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, fields
from typing import Any

from equiformer_pytorch.base.checks import check_number, check_type

CHECK = "check"


def check_fields(given: Any) -> None:
    """TypeError or ValueError unless the fields of a dataclass hold what the functions below say of them."""
    for each in fields(given):
        value = getattr(given, each.name)
        if CHECK in each.metadata and not (value is None and each.default is None):
            each.metadata[CHECK](each.name, value)


def _field(default: Any, check: Callable[[str, Any], None]) -> Any:
    return field(default=default, metadata={CHECK: check})


def flag(default: bool) -> Any:
    """True or False."""
    return _field(default, lambda name, value: check_type(name, value, bool, "True or False"))


def count(default: int | None, least: int = 1) -> Any:
    """A whole number, at least `least`; or None where that is the default."""
    return _field(default, lambda name, value: check_count(name, value, least))


def positive(default: float | None) -> Any:
    """A number above zero; or None where that is the default."""

    def check(name: str, value: Any) -> None:
        check_type(name, value, int | float, "a number")
        check_number(name, value, 0, whole=False, exclusive=True)

    return _field(default, check)


def rate(default: float) -> Any:
    """A probability below one."""

    def check(name: str, value: Any) -> None:
        check_type(name, value, int | float, "a number")
        check_number(name, value, 0, whole=False)
        if value >= 1:
            raise ValueError(f"{name} must be below 1, got {value}")

    return _field(default, check)


def choice(default: str, choices: Iterable[str]) -> Any:
    """One of these."""
    return _field(default, lambda name, value: check_choice(name, value, choices))


def check_count(name: str, value: Any, least: int) -> None:
    """TypeError or ValueError unless `value` is a whole number, at least `least`."""
    check_type(name, value, int, "a whole number")
    check_number(name, value, least)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """ValueError unless `value` is one of the choices."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_orders(lmax: int, mmax: int, names: tuple[str, str]) -> None:
    """ValueError unless orders are at most the highest degree."""
    if mmax > lmax:
        raise ValueError(f"{names[1]} must be at most {names[0]} = {lmax}, got {mmax}")


def single(name: str, values: Sequence[int]) -> int:
    """The only entry of a list of degrees or orders."""
    check_type(name, values, Sequence[int], "a sequence of one whole number")
    if len(values) != 1:
        raise ValueError(
            f"{name} must have one entry: the published networks run at one resolution, got {list(values)}"
        )
    check_count(name, values[0], 0)
    return values[0]


def checkpointed_blocks(values: Sequence[int] | None, layers: int) -> list[bool]:
    """Which layers are computed again in the backward pass, from ``gradient_checkpointing_block_list``."""
    name = "gradient_checkpointing_block_list"
    if values is None:
        return [False] * layers
    check_type(name, values, Sequence[int], "a sequence of 0 and 1, one per layer")
    if len(values) != layers or any(value not in (0, 1) for value in values):
        raise ValueError(f"{name} must have 0 or 1 for each of the {layers} layers, got {list(values)}")
    return [value == 1 for value in values]


def check_grid(name: str, values: Sequence[int] | None, lmax: int) -> None:
    """ValueError unless (latitudes, longitudes) make a grid for degree `lmax`; None passes."""
    if values is None:
        return
    check_type(name, values, Sequence[int], "a sequence of two whole numbers: latitudes and longitudes")
    if len(values) != 2 or values[0] % 2 or values[0] < 2 * (lmax + 1) or values[1] < 1:
        raise ValueError(
            f"{name} must be latitudes and longitudes, of which the first is even and at least {2 * (lmax + 1)} for"
            f" degree {lmax}; got {list(values)}"
        )
