"""Pickles that name classes of other packages, read as plain data: nothing of these packages is imported or run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch

# What a file of inference of fairchem is, and what its configurations may be made of.
CHECKPOINT = "fairchem.core.units.mlip_unit.api.inference.MLIPInferenceCheckpoint"
OMEGACONF = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "typing.Any",
)
BUILTIN = (defaultdict, dict, list, int)
# The entries of such a file, and what we call them.
ENTRIES = {
    "model_config": "model_config",
    "model_state_dict": "state_dict",
    "ema_state_dict": "ema",
    "tasks_config": "tasks_config",
}
# How deep plain data may be nested.
DEEPEST = 100


class UnfitError(ValueError):
    """A file that could be read, and holds what it should not."""


class StandIn:
    """An object of a class that is not imported: what its pickle says of it, in ``__dict__``."""


def _stand_in(name: str) -> type[StandIn]:
    module, _, own = name.rpartition(".")
    return type(own, (StandIn,), {"__module__": module, "__qualname__": own})


STAND_INS = {name: _stand_in(name) for name in (CHECKPOINT, *OMEGACONF)}


def names_foreign(error: Exception) -> bool:
    """Whether torch refused a pickle for a class that a stand-in is here for."""
    return any(f"GLOBAL {name} " in str(error) for name in STAND_INS)


def load_foreign(source: str | PathLike[str]) -> Any:
    """What ``torch.load(weights_only=True)`` gives with stand-ins for those classes, as plain data: a file of inference
    of fairchem as a dict with ``model_config``, ``state_dict``, ``ema`` and ``tasks_config``.

    Raises:
        pickle.UnpicklingError: it names other classes.
        UnfitError: it lacks an entry, or torch is too old for stand-ins.
    """
    if not hasattr(torch.serialization, "safe_globals"):
        raise UnfitError(f"it needs torch 2.5 or later to be read, this is {torch.__version__}")
    with torch.serialization.safe_globals([*STAND_INS.values(), *BUILTIN]):
        contents = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(contents, STAND_INS[CHECKPOINT]):
        return plain(contents, {})
    held = vars(contents)
    lacking = [name for name in ENTRIES if name not in held]
    if lacking:
        raise UnfitError(f"it is a file of inference of fairchem that lacks {', '.join(lacking)}")
    made: dict[int, Any] = {}
    return {ours: plain(held[name], made) for name, ours in ENTRIES.items()}


def plain(value: Any, made: dict[int, Any], depth: int = 0) -> Any:
    """Nodes of OmegaConf as the dict, list or value that they hold, and so on downwards; tensors as they are.

    Args:
        made: what came of each object, by its id: what a file holds in many places is made once.

    Raises:
        UnfitError: it is nested too deep, or holds itself.
    """
    if depth > DEEPEST:
        raise UnfitError(f"it holds data that are nested more than {DEEPEST} deep")
    if id(value) in made:
        return made[id(value)]
    found = value
    if isinstance(value, StandIn):
        held = vars(value)
        found = plain(next((held[name] for name in ("_content", "_val") if name in held), None), made, depth + 1)
    elif isinstance(value, Mapping):
        found = {name: plain(inner, made, depth + 1) for name, inner in value.items()}
    elif isinstance(value, list | tuple):
        found = [plain(inner, made, depth + 1) for inner in value]
    made[id(value)] = found
    return found
