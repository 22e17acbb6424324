"""What checks annotations while tests run, where that is asked for: shapes, dtypes, types.

A float may be an int, as everywhere in Python (PEP 484). A name that is imported for type checkers alone stands for
anything.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from beartype import BeartypeConf, beartype

# Off until all annotations are true.
CHECK_SHAPES = os.environ.get("CHECK_SHAPES", "0") == "1"

Function = TypeVar("Function", bound=Callable[..., Any])
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Function) -> Function:
    """The function with its arguments and its result checked."""
    unknown = [name for name, hint in getattr(function, "__annotations__", {}).items() if isinstance(hint, str)]
    function.__annotations__.update(dict.fromkeys(unknown, Any))
    return _check(function)
