"""What checks annotations while tests run, where that is asked for: shapes, dtypes, types.

A float may be an int, as everywhere in Python (PEP 484). A name that is imported for type checkers alone stands for
anything.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintNonpepException, BeartypeDecorHintPep585DeprecationWarning

CHECK_SHAPES = os.environ.get("CHECK_SHAPES", "0") == "1"

compiled = pytest.mark.skipif(CHECK_SHAPES, reason="torch.compile cannot trace what checks functions within functions")

Function = TypeVar("Function", bound=Callable[..., Any])
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Function) -> Function:
    """The function with its arguments and its result checked."""
    unknown = [name for name, hint in getattr(function, "__annotations__", {}).items() if isinstance(hint, str)]
    function.__annotations__.update(dict.fromkeys(unknown, Any))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)  # TorchScript wants typing.List
        try:
            return _check(function)
        except BeartypeDecorHintNonpepException:  # of TorchScript's classes, which are no types
            return function
