"""All that defines a training run, with the defaults. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from equiformer_pytorch.training.options import TrainingOptions, count, option, share, whole


@dataclass(frozen=True)
class Settings(TrainingOptions):
    """One field per option of `generate_backbones train`, with its help."""

    steps: int = option(12000, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = option(2, "samples per process and micro-batch", count)
    ema: float = option(0.999, "decay per step of the averaged weights, which are evaluated", share)
    warmup: int = option(100, "steps of rising learning rate", whole)
    validate_every: int = option(1000, "steps between evaluations on the validation set", count)
    checkpoint_every: int = option(200, "steps between checkpoints", count)

    data: str = option("", "folder of PDB or mmCIF files to learn from, instead of the shipped chains", str, metavar="FOLDER")
    casp_version: int | None = option(
        None, "download SidechainNet of this CASP and learn from it", int, choices=range(7, 13)
    )
    thinning: int = option(
        30, "which SidechainNet of that CASP: sequence identity in percent", int, choices=(30, 50, 70, 90, 95, 100)
    )
    download_folder: str = option("sidechainnet_data", "where downloads are kept", str, metavar="FOLDER")
    crop: int = option(96, "most residues of a training crop; half of it is the least", count)
    motifs: float = option(0.2, "share of the crops of which a motif is given", share)
    structures: float = option(0.25, "share of the crops whose secondary structure is given", share)
    samples: int = option(8, "backbones of each length that are sampled at the end", count)

    dim: tuple[int, ...] = option((32, 16), "channels of degree 0, 1, …", count, nargs="+")
    depth: int = option(4, "blocks of attention and feed-forward", count)
    heads: int = option(4, "attention heads per degree", count)
    dim_head: int = option(12, "channels per head", count)
    linear_heads: int = option(2, "heads of global linear attention", whole)
    nearest: int = option(8, "nearest residues that a residue attends to, beside the chain's", whole)
    random: int = option(3, "others, drawn at random, near ones more often", whole)
