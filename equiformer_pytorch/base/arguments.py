"""Constructors whose arguments are the fields of a dataclass: named once, checked in it, and kept as `config`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Concatenate, ParamSpec, TypeVar

from equiformer_pytorch.base.checks import check_number, check_type
from equiformer_pytorch.base.tracing import lasting_tensors

Fields = ParamSpec("Fields")
Given = TypeVar("Given")
Built = TypeVar("Built")


def takes(
    arguments: Callable[Fields, Given],
) -> Callable[[Callable[[Built, Given], None]], Callable[Concatenate[Built, Fields], None]]:
    """Makes of ``__init__(self, given)`` one that is called, and shown by help(), with the fields of a dataclass.

    Args:
        arguments: the dataclass. What it raises is raised; unknown names are a TypeError.
    """
    own = signature(arguments)

    def decorate(init: Callable[[Built, Given], None]) -> Callable[Concatenate[Built, Fields], None]:
        @wraps(init)
        def constructor(self: Built, *args: Fields.args, **named: Fields.kwargs) -> None:
            try:
                bound = own.bind(*args, **named)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}: {error}") from None
            with lasting_tensors():
                init(self, arguments(*bound.args, **bound.kwargs))

        first = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        constructor.__signature__ = own.replace(  # pyright: ignore[reportAttributeAccessIssue]
            parameters=[first, *own.parameters.values()], return_annotation=None
        )
        constructor.__annotations__ = {name: field.annotation for name, field in own.parameters.items()}
        return constructor

    return decorate


def as_config(given: Any) -> Any:
    """A dataclass of arguments as a dict of values that a file can hold; what is in it alike."""
    if is_dataclass(given):
        return {field.name: as_config(getattr(given, field.name)) for field in fields(given)}
    if isinstance(given, Mapping):
        return {name: as_config(value) for name, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [as_config(value) for value in given]
    return given


# Where a field keeps the check of its value.
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
