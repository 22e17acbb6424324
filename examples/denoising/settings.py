"""All that defines a denoising run, with the defaults. Imports nothing heavy: `denoise.py --help` reads it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "backbones.pkl"


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


def _option(default: Any, help: str, convert: Callable[[str], Any], **more: Any) -> Any:
    return field(default=default, metadata={"help": help, "type": convert, **more})


count, whole = at_least(int, 1), at_least(int, 0)
positive = at_least(float, 0, excluded=True)
share = at_least(float, 0, below=1)


@dataclass(frozen=True)
class Settings:
    """One field per option of `denoise.py`, with its help."""

    data: str = _option(str(SHIPPED), "pickle in sidechainnet's format", str, metavar="FILE")
    casp_version: int | None = _option(
        None, "download SidechainNet of this CASP instead of reading --data", int, choices=range(7, 13)
    )
    thinning: int = _option(
        30, "which SidechainNet of that CASP: sequence identity in percent", int, choices=(30, 50, 70, 90, 95, 100)
    )
    download_folder: str = _option("sidechainnet_data", "where downloads are kept", str, metavar="FOLDER")
    held_out: int = _option(8, "most chains per held-out split to evaluate on", count)
    noise: float = _option(1.0, "standard deviation of the noise per coordinate, in Å", positive)
    crop: int = _option(64, "residues in a training crop", count)

    dim: tuple[int, ...] = _option((32, 16, 8), "channels of degree 0, 1, …", count, nargs="+")
    depth: int = _option(2, "blocks of attention and feed-forward", count)
    heads: int = _option(4, "attention heads per degree", count)
    dim_head: int = _option(8, "channels per head", count)
    neighbors: int = _option(8, "nearest points in space that a point attends to, beside the chain's", whole)
    chain_reach: int = _option(9, "atoms along the chain, to either side, that a point attends to", count)

    steps: int = _option(1200, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = _option(2, "crops per process and micro-batch", count)
    accumulate: int = _option(1, "micro-batches per step", count)
    lr: float = _option(3e-3, "highest learning rate", positive)
    warmup: int = _option(30, "steps of rising learning rate", whole)
    clip: float = _option(1.0, "largest norm of the gradient", positive)
    ema: float = _option(0.99, "decay per step of the averaged weights, which are evaluated", share)
    seed: int = _option(0, "of weights, crops and training noise", whole)
    mixed_precision: str = _option("no", "accelerate's: no or bf16", str, choices=("no", "bf16"))
    validate_every: int = _option(100, "steps between evaluations on the validation chains", count)
    checkpoint_every: int = _option(50, "steps between checkpoints", count)
