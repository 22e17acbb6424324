"""Constructors whose arguments are the fields of a dataclass: named once, checked in it, and kept as `config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Concatenate, ParamSpec, TypeVar

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
