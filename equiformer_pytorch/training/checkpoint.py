"""Checkpoints that are either whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equiformer_pytorch.base.saved import read_saved, write_saved


class CheckpointError(ValueError):
    """The checkpoint cannot be read, or belongs to something else."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint. A kill at any moment leaves the old file or the new one.

    Args:
        path: of the file.
        content: tensors and plain values, in dicts and lists.
    """
    write_saved(content, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what :func:`save_checkpoint` wrote: tensors (on the CPU) and plain values. No code of the file's is run.

    Args:
        path: of the file.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    try:
        return dict(read_saved(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint: {str(error).splitlines()[0]}") from error
