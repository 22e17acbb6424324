"""Files of torch.save: written whole or not at all, read without running code of theirs, called what they are."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiformer_pytorch.base.foreign import UnfitError, load_foreign, names_foreign

# What data parallelism, averaging and compilation put into the names of weights, and add to them.
WRAPPERS = ("module", "_orig_mod")
COUNTERS = ("n_averaged",)
# What torch says of pickles that name a class or call a function of theirs.
CODE = ("Unsupported global", "Unsupported class", "unrecognized function", "Trying to instantiate", "Trying to load")


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
        ValueError: it holds something else, or more than tensors and plain values; the message says what it looks like.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str | PathLike):
        raise TypeError(f"source must be a path or a mapping, got {type(source).__name__}")
    try:
        contents = _load(source)
    except UnfitError as error:
        raise ValueError(f"{source} does not fit: {error}") from error
    except Exception as error:  # a damaged file can raise almost anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if isinstance(error, pickle.UnpicklingError) and any(words in str(error) for words in CODE):
            raise ValueError(
                f"{source} holds more than tensors, numbers and containers of these, and reading it would run code of"
                " it. If you trust it, save torch.save({'state_dict': …, 'config': …}, …) of its contents and read"
                f" that. torch says: {error}"
            ) from error
        raise ValueError(
            f"{source} is not a file of torch.save, or not a whole one: it {_looks(Path(source))}"
        ) from error
    if not isinstance(contents, Mapping):
        raise ValueError(f"{source} must hold a dict, got {type(contents).__name__}")
    return contents


def _load(source: str | PathLike[str]) -> Any:
    """Tensors and plain values; those of other packages' files, too, where stand-ins for their classes are known."""
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not names_foreign(error):
            raise
        return load_foreign(source)


def _looks(path: Path) -> str:
    """What a file that torch cannot read seems to be, in words."""
    with path.open("rb") as file:
        head = file.read(1024)
    size, text = path.stat().st_size, head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself (git lfs pull fetches that)"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "is a web page, such as a download may leave in place of the file"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "is a file of safetensors, which says nothing of the model that its tensors belong to"
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            return f"is cut short after {size} bytes"
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        return "is a program of TorchScript" if script else "is damaged, or a zip archive of something else"
    if head.startswith(b"\x80"):
        return f"is a pickle, of something else, damaged, or cut short after {size} bytes"
    return f"begins with {head[:40]!r}"


def plain_name(name: str) -> str:
    """The name of a weight without what data parallelism and compilation put into it, wherever they did."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def weights_of(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file by plain name: those under ``state_dict``, or the file itself.

    Raises:
        ValueError: there are none; the message says what there is.
    """
    state = contents.get("state_dict", contents)
    named = state.items() if isinstance(state, Mapping) else ()
    tensors = {plain_name(str(name)): value for name, value in named if isinstance(value, Tensor)}
    found = {name: value for name, value in tensors.items() if name not in COUNTERS}
    if found:
        return found
    if {"model", "optimizer"} <= contents.keys():
        raise ValueError(
            "there are no weights under state_dict: this is the checkpoint that a training run goes on from; the run"
            " leaves the model itself in a file beside it, potential.pt, when it ends (--resume ends it)"
        )
    raise ValueError(f"there are no weights: state_dict is missing, there are only {sorted(map(str, contents))[:9]}")
