"""All that defines a run of `python -m examples.qm9`, with the defaults. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from equiformer_pytorch.training.options import (
    TrainingOptions,
    at_least,
    count,
    optimizer,
    option,
    positive,
    share,
    whole,
)
from examples.qm9.properties import PROPERTIES


@dataclass(frozen=True)
class Settings(TrainingOptions):
    """One field per option, with its help."""

    property: str = option("u0", ", ".join(PROPERTIES), str, choices=tuple(PROPERTIES), metavar="NAME")
    data: str | None = option(
        None, "folder with the CSV files of qm9pack; by default those of the installed package", str, metavar="FOLDER"
    )
    kept: str = option("runs/data/qm9.pt", "where what was read of the installed files is kept", str, metavar="FILE")
    train: int = option(  # of one alone nothing is left to learn beside the fit of its atoms
        1000, "molecules to train on, up to 110000; validation and test molecules stay the same", at_least(int, 2)
    )
    split_seed: int = option(0, "of the order of the molecules, which decides who is trained on", whole)
    most_valid: int = option(1000, "validate on so many molecules, up to 10000", count)
    most_test: int = option(2000, "test on so many molecules, up to 10831", count)

    cutoff: float = option(3.2, "radius within which atoms see each other, in Å", positive)
    dim: tuple[int, ...] = option((32,), "channels, of all degrees or of degree 0, 1, …", count, nargs="+")
    num_degrees: int = option(3, "degrees of the features", count)
    depth: int = option(2, "blocks of attention and feed-forward", count)
    heads: int = option(4, "attention heads per degree", count)
    dim_head: int = option(8, "channels per head", count)
    attention: str = option("mlp", "l2 or mlp", str, choices=("l2", "mlp"))
    loss: str = option(
        "squares",
        "mean of the squares of the errors, or of their sizes, as published",
        str,
        choices=("squares", "sizes"),
    )

    steps: int = option(8000, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = option(16, "molecules per process and micro-batch", count)
    optimizer: str = optimizer("muon")
    lr: float = option(3e-3, "highest learning rate", positive)
    warmup: int = option(160, "steps of rising learning rate", whole)
    clip: float = option(10.0, "largest norm of the gradient", positive)
    weight_decay: float = option(0.0, "times the learning rate, what weights lose in a step", share)
    validate_every: int = option(500, "steps between evaluations on the validation molecules", count)
    checkpoint_every: int = option(100, "steps between checkpoints", count)
