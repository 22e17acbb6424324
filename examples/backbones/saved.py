"""Trained generators in files: weights and what the network was built with. Nothing in them is executed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from equiformer_pytorch.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from examples.backbones.network import BackboneNetwork, NetworkArguments

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "backbone_model.pt"


def save(network: BackboneNetwork, path: Path) -> None:
    """Writes the file as a whole or not at all."""
    save_checkpoint(path, {"arguments": asdict(network.arguments), "weights": network.state_dict()})


def load(path: Path) -> BackboneNetwork:
    """Of a file, or of a run's folder.

    Raises:
        CheckpointError: if there is none, or it is not of a generator of this version.
    """
    path = path / "model.pt" if path.is_dir() else path
    content = load_checkpoint(path)
    try:
        network = BackboneNetwork(NetworkArguments(**content["arguments"]))
        network.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a generator of backbones of this version") from error
    return network.eval()
