"""Options of the programs: one dataclass field each, with its help. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


def at_least(kind: type, low: float, *, excluded: bool = False, below: float = float("inf")) -> Callable[[str], Any]:
    """A converter for argparse: `kind(text)`, refused unless low <= value < below (low < value if `excluded`)."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not (low < value if excluded else low <= value) or not value < below:
            upper = f" and below {below:g}" if below != float("inf") else ""
            raise argparse.ArgumentTypeError(f"{text} is not {'above' if excluded else 'at least'} {low}{upper}")
        return value

    convert.__name__ = {int: "integer", float: "number"}[kind]
    return convert


def assignment(text: str) -> str:
    """A converter for argparse: NAME=VALUE as it is."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return text


def assigned(texts: tuple[str, ...]) -> dict[str, str]:
    """By name, of texts NAME=VALUE."""
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def option(default: Any, help: str, convert: Callable[[str], Any], **more: Any) -> Any:
    """A field of settings; `more` is for `add_argument`."""
    return field(default=default, metadata={"help": help, "type": convert, **more})


def flag(help: str) -> Any:
    """A field of settings that is off unless it is named."""
    return field(default=False, metadata={"help": help, "action": "store_true"})


def optimizer(default: str, *others: str, more: str = "") -> Any:
    """A field of settings: which optimizer, or one of further words, which `more` explains."""
    words = "adamw, or muon, which makes the steps of matrices orthogonal" + more
    return option(default, words, str, choices=("adamw", "muon", *others))


count, whole = at_least(int, 1), at_least(int, 0)
positive = at_least(float, 0, excluded=True)
share = at_least(float, 0, below=1)


@dataclass(frozen=True)
class TrainingOptions:
    """What every program that trains can be told; its settings come after these, and may have other defaults."""

    UNSAID: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw"}
    """Settings that runs of 1.3 and before do not hold, since there was no choice, and what they had."""

    steps: int = option(1200, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = option(2, "samples per process and micro-batch", count)
    accumulate: int = option(1, "micro-batches per step", count)
    optimizer: str = optimizer("adamw")
    lr: float = option(3e-3, "highest learning rate", positive)
    warmup: int = option(30, "steps of rising learning rate", whole)
    clip: float = option(1.0, "largest norm of the gradient", positive)
    ema: float = option(0.99, "decay per step of the averaged weights, which are evaluated", share)
    seed: int = option(0, "of weights, samples and noise", whole)
    mixed_precision: str = option("no", "accelerate's: no or bf16", str, choices=("no", "bf16"))
    workers: int = option(0, "further processes, for each one that trains, that load its samples", whole)
    validate_every: int = option(100, "steps between evaluations on the validation set", count)
    checkpoint_every: int = option(50, "steps between checkpoints", count)
    log_with: tuple[str, ...] = option(
        (), "trackers of accelerate that follow the run, e.g. tensorboard or wandb", str, nargs="+", metavar="TRACKER"
    )
