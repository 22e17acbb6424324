"""What is asked of the generator, made into tasks: free backbones, motifs, secondary structure, variations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from examples.backbones.geometry import Frames, frames_of
from examples.backbones.network import OPEN, STRUCTURES
from examples.backbones.process import HIGHEST
from examples.backbones.sampling import Task
from examples.backbones.settings import SHORTEST, SampleSettings
from examples.backbones.structures import read_chain

LETTERS = {"H": "H", "E": "E", "C": "-", ".": None}
"""What secondary structure is called in a request; a dash would look like an option. A dot leaves it open."""


class RequestError(ValueError):
    """What is asked for does not fit together."""


class Motif(NamedTuple):
    """Residues that are built into a backbone."""

    coords: Tensor
    """(n, 4, 3) Å."""
    places: Tensor
    """(n,) of the new backbone, from 0."""


def tasks_of(settings: SampleSettings) -> list[Task]:
    """All backbones that are asked for, in order.

    Raises:
        RequestError, StructureError: for what does not fit, in words.
    """
    asked = [name for name in ("motif", "vary", "structure") if getattr(settings, name)]
    if settings.vary and len(asked) > 1:
        raise RequestError(f"--vary keeps all of a backbone: leave out --{' and --'.join(set(asked) - {'vary'})}")
    if not settings.motif and (settings.residues or settings.at):
        raise RequestError("--residues and --at say what of a --motif is built in: give its file")
    seeds = range(settings.seed, settings.seed + settings.count)
    if settings.vary:
        frames = frames_of(read_chain(Path(settings.vary), settings.chain or None).coords)
        _check_length(f"--vary {settings.vary}", len(frames.origin))
        return [Task(len(frames.origin), seed, frames=frames, start=min(settings.noise, HIGHEST)) for seed in seeds]
    structure = structure_tokens(settings.structure)
    if structure is not None:
        _check_length(f"--structure {settings.structure}", len(structure))
    lengths = settings.lengths if structure is None else (len(structure),)
    tasks = []
    for length in lengths:
        known, frames = None, None
        if settings.motif:
            known, frames = scaffold(read_motif(settings, length), length)
        tasks += [Task(length, seed, known=known, frames=frames, structure=structure) for seed in seeds]
    return tasks


def _check_length(what: str, length: int) -> None:
    if length < SHORTEST:
        raise RequestError(f"{what} is of {length} residues, {SHORTEST} are the least")


@contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """Made before the work, which may take an hour, rather than after it, where nothing can be written; not left behind
    empty where the work fails.

    Raises:
        RequestError, OSError: it is there already, or cannot be made.
    """
    folder = Path(name)
    if folder.exists():
        raise RequestError(f"{folder} exists already: choose another --out")
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def structure_tokens(letters: str) -> Tensor | None:
    """Tokens of `LETTERS`; None of none."""
    unknown = sorted(set(letters) - set(LETTERS))
    if unknown:
        raise RequestError(f"--structure has the letters {''.join(unknown)}: only {''.join(LETTERS)} mean something")
    meant = [LETTERS[letter] for letter in letters]
    return torch.tensor([OPEN if one is None else STRUCTURES.index(one) for one in meant]) if letters else None


def read_motif(settings: SampleSettings, length: int) -> Motif:
    """The stretches of the file's chain, and where they go."""
    chain = read_chain(Path(settings.motif), settings.chain or None)
    stretches = [stretch(text, len(chain)) for text in settings.residues] or [(0, len(chain))]
    if any(first < stop for (_, stop), (first, _) in pairwise(stretches)):
        raise RequestError(f"--residues {' '.join(settings.residues)} must ascend and not overlap")
    span = stretches[-1][1] - stretches[0][0]
    if settings.at and len(settings.at) != len(stretches):
        raise RequestError(f"--at has {len(settings.at)} places for {len(stretches)} stretches: one each")
    if not settings.at and span > length:
        raise RequestError(f"the motif spans {span} residues, the backbone has {length}: give --at, or more --lengths")
    shift = (length - span) // 2 - stretches[0][0]
    starts = [place - 1 for place in settings.at] or [first + shift for first, _ in stretches]
    ends = [start + stop - first for start, (first, stop) in zip(starts, stretches, strict=True)]
    if any(start < end for end, start in zip(ends, starts[1:], strict=False)) or ends[-1] > length:
        raise RequestError(f"the motif does not fit: its stretches would end at {ends} of {length} residues, in order")
    places = torch.cat([torch.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    if len(places) == length:
        raise RequestError(f"the motif is all of the {length} residues: nothing is left to be made")
    return Motif(torch.cat([chain.coords[first:stop] for first, stop in stretches]), places)


def stretch(text: str, length: int) -> tuple[int, int]:
    """First, and the one after the last, from 0, of FIRST-LAST from 1."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= length):
        raise RequestError(f"--residues {text} is not FIRST-LAST within the {length} residues of the chain")
    return int(first) - 1, int(last)


def scaffold(motif: Motif, length: int) -> tuple[Tensor, Frames]:
    """Which residues are known (length,), and frames of all, those of the others at the middle of the motif."""
    found = frames_of(motif.coords)
    known = torch.zeros(length, dtype=torch.bool)
    known[motif.places] = True
    rotation = torch.eye(3).expand(length, 3, 3).clone()
    origin = found.origin.mean(0).expand(length, 3).clone()
    rotation[motif.places], origin[motif.places] = found.rotation, found.origin
    return known, Frames(rotation, origin)


def in_batches(tasks: Sequence[Task], at_once: int) -> list[list[Task]]:
    """Tasks that are computed together."""
    return [list(tasks[first : first + at_once]) for first in range(0, len(tasks), at_once)]
