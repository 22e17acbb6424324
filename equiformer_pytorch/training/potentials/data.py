"""Structures to train on, to validate on and to test on, and what a run has to know of them beforehand."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from equiformer_pytorch.atoms import Input, StructureDataset, Target, load_structures
from equiformer_pytorch.atoms.dataset import LazyItems
from equiformer_pytorch.atoms.labels import LABELS
from equiformer_pytorch.training.options import assigned
from equiformer_pytorch.training.potentials.settings import PotentialSettings
from equiformer_pytorch.training.runs import RunError
from equiformer_pytorch.training.samples import generator_for

SUFFIXES = (".xyz", ".extxyz", ".db", ".aselmdb", ".traj", ".json")
# Bytes of files beyond which structures are not kept in memory.
LARGE = 2**31
# Structures of a data set read lazily that reference energies and scales are taken from.
SAMPLE = 5000

Splits = dict[str, StructureDataset]
Item = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """How a model sees structures."""

    cutoff: float
    max_neighbors: int | None
    strict_neighbors: bool
    dtype: torch.dtype | None
    targets: dict[str, Target]
    inputs: dict[str, Input]


@dataclass(frozen=True)
class Survey:
    """What is known of the structures to train on."""

    species: tuple[int, ...]
    labels: Counter[str]
    """How many have each label; of those looked at, where not all were."""
    sample: Sequence[Item]
    """All of them in memory, else some, and all isolated atoms that were seen."""


def read_splits(settings: PotentialSettings, form: Form, say: Callable[[str], None]) -> Splits:
    """`train`, `valid`, and one or more whose names begin with test, if any: with graphs as a model sees them.

    Raises:
        RunError: files or records that cannot be used.
    """
    files, shares = _sources(settings)
    splits = {name: load(paths, settings, form, say) for name, paths in files.items()}
    train, parts = splits["train"], {}
    if shares:
        order = torch.randperm(len(train), generator=generator_for("split", settings.seed)).tolist()
        kept = [] if isinstance(train.items, LazyItems) else [i for i in order if "isolated" in train.items[i]]
        order = [*(index for index in order if index not in set(kept)), *kept]  # atoms alone are always trained on
        for name, share in shares.items():
            count = max(1, round(share * len(train)))
            parts[name], order = order[:count], order[count:]
        if not order:
            raise RunError(f"{settings.train} has {len(train)} structures: none is left to train on")
        parts["train"] = sorted(order)
        splits |= {name: train.subset(sorted(indices)) for name, indices in parts.items()}
    return {name: splits[name] for name in ("train", "valid", *sorted(splits.keys() - {"train", "valid"}))}


def _sources(settings: PotentialSettings) -> tuple[dict[str, list[Path]], dict[str, float]]:
    """Files by split, and shares of those to train on."""
    if settings.data is not None:
        return _files_of(Path(settings.data)), {}
    if settings.train is None:
        raise RunError("--train is missing: files with structures to train on")
    files, shares = {"train": list(map(Path, settings.train))}, {}
    for name, given in (("valid", settings.valid), ("test", settings.test)):
        if given is None:
            continue
        try:
            shares[name] = float(given[0]) if len(given) == 1 else float("nan")
        except ValueError:
            shares[name] = float("nan")
        if not 0 < shares[name] < 1:
            del shares[name]
            files[name] = list(map(Path, given))
    if sum(shares.values()) >= 1:
        raise RunError(f"the shares {shares} leave nothing to train on")
    return files, shares


def _files_of(folder: Path) -> dict[str, list[Path]]:
    found = {path.stem: [path] for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES}
    wanted = {name: found[name] for name in found if name in ("train", "valid") or name.startswith("test")}
    if not {"train", "valid"} <= wanted.keys():
        raise RunError(f"{folder} must have train.xyz and valid.xyz (or another suffix), got {sorted(found)}")
    return wanted


def load(
    paths: Sequence[Path], settings: PotentialSettings, form: Form, say: Callable[[str], None]
) -> StructureDataset:
    """The structures of some files; what there is to be said of them goes to `say`."""
    lazy = settings.lazy or any(path.suffix.lower() == ".aselmdb" for path in paths)
    try:
        lazy = lazy or sum(path.stat().st_size for path in paths) > LARGE
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            structures = load_structures(
                cast(Any, paths),
                form.cutoff,
                max_neighbors=form.max_neighbors,
                strict_neighbors=form.strict_neighbors,
                on_error="skip" if lazy or settings.skip_damaged else "raise",
                dtype=form.dtype,
                keys=assigned(settings.keys),
                targets=form.targets,
                inputs=form.inputs,
                lazy=lazy,
            )
    except FileNotFoundError as error:
        raise RunError(f"there is no file {error.filename or error}") from error
    except (ImportError, ValueError) as error:
        raise RunError(str(error)) from error
    for warning in said:
        say(str(warning.message))
    names = structures.items.names() if isinstance(structures.items, LazyItems) else None
    if names is not None:
        say(f"{', '.join(map(str, paths))}: {names}")
    return structures


def survey(train: StructureDataset, species: Sequence[int], targets: dict[str, Target]) -> Survey:
    """What labels there are, and which elements where `species` does not say; for that all records are read."""
    names = (*LABELS, *targets)
    if not isinstance(train.items, LazyItems):
        items = train.items
        found = {int(number) for item in items for number in item["atomic_numbers"]}
        return Survey(tuple(species or sorted(found)), _count(items, names), items)
    lazy = train.items
    step = max(1, len(lazy) // SAMPLE)
    sample = [item for item in map(lazy.__getitem__, range(0, len(lazy), step)) if "damaged" not in item]
    if species:
        return Survey(tuple(species), _count(sample, names), sample)
    found: set[int] = set()
    labels: Counter[str] = Counter()
    for index in tqdm(range(len(lazy)), desc="elements", mininterval=0.2 if sys.stderr.isatty() else 10):
        read = lazy.without_graph(index)
        if read is None:
            continue
        found.update(map(int, read.numbers))
        labels.update(name for name in names if name in read.labels and bool(read.labels.get(f"has_{name}", True)))
        if len(read.numbers) == 1 and index % step:
            sample.append(lazy[index])
    return Survey(tuple(sorted(found)), labels, sample)


def check_labels(valid: StructureDataset, wanted: Iterable[str]) -> None:
    """RunError where no structure to validate on, or none of the first, has a label that is trained on."""
    wanted = list(wanted)
    for index in range(min(len(valid), SAMPLE)):
        item = valid[index]
        if any(name in item and bool(item.get(f"has_{name}", True)) for name in wanted):
            return
    raise RunError(f"no structure to validate on has {' or '.join(wanted)}, which are trained on")


def _count(items: Sequence[Item], names: Sequence[str]) -> Counter[str]:
    return Counter(name for item in items for name in names if name in item and bool(item.get(f"has_{name}", True)))


def describe(splits: Splits, found: Survey) -> str:
    """How many structures, and how many labels those to train on have."""
    plural = {"energy": "energies", "forces": "forces", "stress": "stresses"}
    labels = ", ".join(f"{number} {plural.get(name, name)}" for name, number in found.labels.items())
    of = "" if len(found.sample) >= len(splits["train"]) or not found.labels else " among those looked at"
    sizes = [f"{len(structures)} {name}" for name, structures in splits.items()]
    return f"structures: {sizes[0]} ({labels or 'no label'}{of}), {', '.join(sizes[1:])}"
