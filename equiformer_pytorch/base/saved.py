"""Files of torch.save: written whole or not at all, read without running code of theirs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch


def write_saved(contents: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """To a temporary file beside it, then renamed: an error or a kill at any moment leaves the old file or the new one.

    Raises:
        OSError: it cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(contents, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_saved(source: str | PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """The dict in a file, on the CPU; a dict that is given comes back as it is.

    Raises:
        TypeError: `source` is neither.
        OSError: there is no such file, or it cannot be opened.
        ValueError: it holds something else, or more than tensors and plain values.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str | PathLike):
        raise TypeError(f"source must be a path or a mapping, got {type(source).__name__}")
    try:
        contents = torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source} holds more than tensors, numbers and containers of these, and reading it would run code of it."
            " If you trust it, save torch.save({'state_dict': …, 'config': …}, …) of its contents and read that."
            f" torch says: {error}"
        ) from error
    except Exception as error:  # a damaged file can raise almost anything
        raise ValueError(f"{source} is not a file of torch.save: {error}") from error
    if not isinstance(contents, Mapping):
        raise ValueError(f"{source} must hold a dict, got {type(contents).__name__}")
    return contents
