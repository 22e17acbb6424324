"""Training: a loop on Hugging Face accelerate that a kill does not disturb, runs and their folders, and what trains
potentials. Needs the extra `train`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiformer_pytorch.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
    from equiformer_pytorch.training.loop import Outcome, TrainSettings, train
    from equiformer_pytorch.training.metrics import MetricsFile
    from equiformer_pytorch.training.optimizers import Muon
    from equiformer_pytorch.training.samples import SampleStream

__all__ = [
    "CheckpointError",
    "MetricsFile",
    "Muon",
    "Outcome",
    "SampleStream",
    "TrainSettings",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]

# Imported when asked for: the options of a program, in this room too, are to be read at once.
_LATER = {
    "CheckpointError": "checkpoint",
    "MetricsFile": "metrics",
    "Muon": "optimizers",
    "Outcome": "loop",
    "SampleStream": "samples",
    "TrainSettings": "loop",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
