"""All that defines a training run, with the defaults. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from equiformer_pytorch.training.options import at_least, count, flag, option, share, whole
from examples.denoising.settings import DownloadOptions

counted = count  # of classes that have a field of that name
SHORTEST = 3  # residues of a backbone that can be drawn and has a TM score
of_residues = at_least(int, SHORTEST)


@dataclass(frozen=True)
class Settings(DownloadOptions):
    """One field per option of `generate_backbones train`, with its help."""

    steps: int = option(36000, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = option(2, "samples per process and micro-batch", count)
    ema: float = option(0.999, "decay per step of the averaged weights, which are evaluated", share)
    warmup: int = option(100, "steps of rising learning rate", whole)
    validate_every: int = option(1000, "steps between evaluations on the validation set", count)
    checkpoint_every: int = option(200, "steps between checkpoints", count)

    data: str = option(
        "", "what to learn from instead of the shipped chains: a folder of PDB or mmCIF files, or a pickle in "
        "sidechainnet's format", str, metavar="PATH",
    )  # fmt: skip
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


@dataclass(frozen=True)
class SampleSettings:
    """One field per option of `generate_backbones sample`."""

    out: str = option("backbones", "folder for what is made; must not be there yet", str, metavar="FOLDER")
    model: str = option("", "a run's folder or its model.pt, instead of the shipped model", str, metavar="PATH")
    lengths: tuple[int, ...] = option((64,), "residues; backbones of each length are made", of_residues, nargs="+")
    count: int = option(8, "backbones of each length", counted)
    seed: int = option(0, "of the first backbone; the next ones count on", whole)
    steps: int = option(60, "evaluations of the network for each backbone", counted)
    at_once: int = option(16, "backbones that are computed together", counted)
    guided_below: float = option(
        3.0, "Å of noise below which estimates are freed of clashes; 0: never", at_least(float, 0)
    )

    structure: str = option(
        "", "secondary structure that is asked for, a letter per residue: H helix, E strand, C other, . as it comes",
        str, metavar="LETTERS",
    )  # fmt: skip
    motif: str = option("", "PDB or mmCIF file with a motif that is built into every backbone", str, metavar="FILE")
    residues: tuple[str, ...] = option(
        (), "stretches of the file's chain that make the motif, counted from 1, e.g. 10-24 40-52", str,
        nargs="+", metavar="FIRST-LAST",
    )  # fmt: skip
    at: tuple[int, ...] = option(
        (), "where the stretches start in the new backbone, from 1; else as far apart as they were, in the middle",
        counted, nargs="+", metavar="PLACE",
    )  # fmt: skip
    vary: str = option("", "PDB or mmCIF file with a backbone of which variations are made", str, metavar="FILE")
    noise: float = option(
        3.0,
        "Å of noise from which variations start: the more, the farther from the given one",
        at_least(float, 0.1, excluded=True),
    )
    chain: str = option("", "which chain of the file, if it has several", str, metavar="NAME")

    sequences: int = option(0, "sequences that ProteinMPNN designs for each, in a FASTA file beside it", whole)
    trajectory: bool = flag("also write the way of the first backbone from noise, as models of a PDB file and as a GIF")


@dataclass(frozen=True)
class ReportSettings:
    """One field per option of `generate_backbones report`."""

    out: str = option("report", "folder for tables and plots; must not be there yet", str, metavar="FOLDER")
    model: str = option("", "a run's folder or its model.pt, instead of the shipped model", str, metavar="PATH")
    samples: str = option("", "folder of PDB files to judge, instead of sampling", str, metavar="FOLDER")
    lengths: tuple[int, ...] = option((64, 96), "residues", of_residues, nargs="+")
    count: int = option(32, "backbones of each length and seed", counted)
    unguided: int = option(16, "backbones of each length that are made without guidance, beside them; 0: none", whole)
    requests: int = option(
        34, "held-out chains, at most, of which motifs, structure and variations are asked for; 0: none", whole
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "each a set of backbones", whole, nargs="+")
    steps: int = option(60, "evaluations of the network for each backbone", counted)
    at_once: int = option(16, "backbones that are computed together", counted)
    guided_below: float = option(
        3.0, "Å of noise below which estimates are freed of clashes; 0: never", at_least(float, 0)
    )
