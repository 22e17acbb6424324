"""A training loop on Hugging Face accelerate that a kill does not disturb. Needs the extra `examples`."""

from equiformer_pytorch.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from equiformer_pytorch.training.loop import Outcome, TrainSettings, train
from equiformer_pytorch.training.metrics import MetricsFile
from equiformer_pytorch.training.samples import SampleStream

__all__ = [
    "CheckpointError",
    "MetricsFile",
    "Outcome",
    "SampleStream",
    "TrainSettings",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
