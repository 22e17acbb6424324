"""Checkpoints that are either whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from equiformer_pytorch.base.saved import read_saved, write_saved


class CheckpointError(ValueError):
    """The checkpoint cannot be read, or belongs to something else."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """A kill at any moment leaves the old file or the new one."""
    write_saved(content, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors (on the CPU) and plain values only: loading runs no code of the file's."""
    try:
        return dict(read_saved(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint: {str(error).splitlines()[0]}") from error


def optimizer_state(state: Mapping[str, Any], weights: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The saved state of an optimizer of all parameters, in one group, for a model that by now has more of them than
    the saved weights: an optimizer counts its parameters, and the new ones start afresh."""
    names = [name for name, _ in model.named_parameters()]
    kept = [place for place, name in enumerate(names) if name in weights]
    groups = state["param_groups"]
    if len(kept) == len(names) or len(groups) != 1 or len(groups[0]["params"]) != len(kept):
        return dict(state)
    found = {kept[place]: of_parameter for place, of_parameter in state["state"].items()}
    return {"state": found, "param_groups": [{**groups[0], "params": list(range(len(names)))}]}
