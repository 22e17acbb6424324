"""All that defines a denoising run, with the defaults. Imports nothing heavy: `denoise.py --help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from equiformer_pytorch.training.options import TrainingOptions, count, optimizer, option, positive, share, whole

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "backbones.pkl"


@dataclass(frozen=True)
class DownloadOptions(TrainingOptions):
    """Of programs that can learn from a published SidechainNet."""

    casp_version: int | None = option(
        None, "download SidechainNet of this CASP instead of reading --data", int, choices=range(7, 13)
    )
    thinning: int = option(
        30, "which SidechainNet of that CASP: sequence identity in percent", int, choices=(30, 50, 70, 90, 95, 100)
    )
    download_folder: str = option("sidechainnet_data", "where downloads are kept", str, metavar="FOLDER")


@dataclass(frozen=True)
class Settings(DownloadOptions):
    """One field per option of `denoise.py`, with its help."""

    UNSAID: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "hidden": 0.0, "networks": 1, "start_reach": 0}

    data: str = option(str(SHIPPED), "pickle in sidechainnet's format", str, metavar="FILE")
    held_out: int = option(8, "most chains per held-out split to evaluate on", count)
    noise: float = option(1.0, "standard deviation of the noise per coordinate, in Å", positive)
    crop: int = option(64, "residues in a training crop", count)
    hidden: float = option(0.3, "share of the residues of a training crop whose type is hidden", share)

    dim: tuple[int, ...] = option((32, 16, 8), "channels of degree 0, 1, …", count, nargs="+")
    networks: int = option(3, "one after another, each on the points where the one before left them", count)
    depth: int = option(1, "blocks of attention and feed-forward in each", count)
    heads: int = option(4, "attention heads per degree", count)
    dim_head: int = option(8, "channels per head", count)
    neighbors: int = option(8, "nearest points in space that a point attends to, beside the chain's", whole)
    chain_reach: int = option(9, "atoms along the chain, to either side, that a point attends to", count)
    start_reach: int = option(9, "the same of the linear map that the first network starts from; 0: none", whole)

    optimizer: str = optimizer("muon")
    lr: float = option(6e-3, "highest learning rate", positive)
