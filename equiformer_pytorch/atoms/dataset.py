"""Structures on disk: what ASE reads, as a dataset with graphs, and batches of it.

Units are ASE's: Å, eV, eV/Å, and eV/Å³ for the stress, which is positive under tension.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from equiformer_pytorch.base.checks import check_number

if TYPE_CHECKING:
    from ase import Atoms

LABELS = ("energy", "forces", "stress")
LAST_ELEMENT = 118
XYZ_SUFFIXES = (".xyz", ".extxyz")


@dataclass(frozen=True)
class Skipped:
    """A record that was left out: file, place in the file from 0 (None: nothing of it could be read), and reason."""

    file: Path
    index: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.index is None else f', record {self.index}'}: {self.reason}"


class StructureDataset(Dataset[dict[str, Tensor]]):
    """Structures in memory, each with its graph; `skipped` are the records that were left out."""

    def __init__(self, items: Sequence[dict[str, Tensor]], skipped: Sequence[Skipped] = ()) -> None:
        self.items = items
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]


def load_structures(
    path: str | Path | Sequence[str | Path],
    cutoff: float,
    *,
    max_neighbors: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    dtype: torch.dtype | None = None,
) -> StructureDataset:
    """All structures of one or several files that ASE reads (extxyz, db, traj, …), with graphs that are made once.

    An item has atomic_numbers (n,), pos (n, 3), cell (3, 3), pbc (3,), edge_index (2, E) as sender and receiver,
    cell_offsets (E, 3), and those of energy (), forces (n, 3) and stress (3, 3) that the file gives.

    Args:
        path: a file or several.
        cutoff: radius of the graph, in Å.
        max_neighbors: at most so many nearest neighbours of an atom; all within the cutoff by default.
        on_error: what to do with a record that cannot be used, be it unreadable, cut short, not finite, or with labels
            of the wrong shape: "raise" a ValueError that names file, record and reason, or "skip" it and name all
            that were skipped in one warning.
        dtype: of the floating-point tensors; torch's default by default. Graphs are made in float64, and energies
            stay in it: sums of reference energies have more digits than float32 holds.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    check_number("cutoff", cutoff, 0, whole=False, exclusive=True)
    check_number("max_neighbors", max_neighbors, 1)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    paths = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
    for file in paths:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")

    items: list[dict[str, Tensor]] = []
    skipped: list[Skipped] = []
    for file in paths:
        for index, read in _records(file):
            try:
                items.append(_item(_read(read), cutoff, max_neighbors, dtype))
            except ValueError as error:
                skipped.append(Skipped(file, index, _in_one_line(error)))
                if on_error == "raise":
                    raise ValueError(str(skipped[-1])) from error
    if skipped:
        listed = "\n".join(f"  {record}" for record in skipped)
        warnings.warn(f"left out {len(skipped)} of {len(skipped) + len(items)} records:\n{listed}", stacklevel=2)
    if not items:
        raise ValueError(f"no structure in {', '.join(map(str, paths)) or 'an empty list of files'}")
    return StructureDataset(items, skipped)


def collate_structures(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of several structures: atoms and edges one after the other, the rest stacked.

    Adds `batch` (n,), which tells the structure of each atom. Labels must be given by all items or by none.
    """
    if not items:
        raise ValueError("a batch needs at least one structure")
    sizes = [len(item["pos"]) for item in items]
    present = [name for name in LABELS if any(name in item for item in items)]
    for name in present:
        missing = [str(i) for i, item in enumerate(items) if name not in item]
        if missing:
            raise ValueError(
                f"structure {', '.join(missing)} of the batch ({len(items)} structures) has no {name}, others have: "
                f"give it to all, or drop it from all"
            )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    merged = {
        "batch": torch.repeat_interleave(torch.tensor(sizes)),
        "edge_index": torch.cat([item["edge_index"] + s for item, s in zip(items, starts, strict=True)], 1),
    }
    joined = ("atomic_numbers", "pos", "cell_offsets", "forces")
    stacked = ("cell", "pbc", "energy", "stress")
    merged |= {name: torch.cat([item[name] for item in items]) for name in joined if name in items[0]}
    return merged | {name: torch.stack([item[name] for item in items]) for name in stacked if name in items[0]}


# ---- reading: a record is a function that reads it, so that what is wrong with it is its own affair

Records = Iterator[tuple[int | None, Callable[[], "Atoms"]]]


def _records(file: Path) -> Records:
    """Place and reader of every record, also of those that cannot be read."""
    try:
        import ase  # noqa: F401
    except ImportError as error:
        raise ImportError('reading structures needs ASE: pip install "equiformer-pytorch[atoms]"') from error
    suffix = file.suffix.lower()
    if suffix in XYZ_SUFFIXES:
        yield from _xyz_records(file)
    elif suffix in (".db", ".json"):
        yield from _database_records(file)
    elif suffix == ".traj":
        yield from _trajectory_records(file)
    else:
        yield from _stream_records(file)


def _xyz_records(file: Path) -> Records:
    """The text between two counts, so that a damaged record does not take the next ones with it."""

    def read(lines: list[str]) -> Atoms:
        from ase.io import read

        if not lines[0].strip().isdecimal():
            raise ValueError(f"it begins with {lines[0].strip()[:40]!r}, not with a number of atoms")
        wanted, found = int(lines[0]), sum(not line.startswith("VEC") for line in lines[2:])  # VEC1 … VEC3: a cell
        if found < wanted:
            raise ValueError(f"cut short: {found} of {wanted} atoms")
        if found > wanted:
            raise ValueError(f"{found - wanted} lines more than its {wanted} atoms")
        if not lines[-1].endswith("\n") and _loses_digits(lines[2:]):
            raise ValueError(f"cut short: the file ends in {lines[-1][-20:]!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE's words about columns it renames
            atoms: Any = read(io.StringIO("".join(lines)), format="extxyz")
        return atoms

    with file.open(errors="replace") as text:
        for index, lines in enumerate(_split_xyz(text)):
            yield index, lambda lines=lines: read(lines)


def _split_xyz(text: Iterable[str]) -> Iterator[list[str]]:
    """Lines in records: one begins at a line that is nothing but a whole number, unless that is a comment."""
    record: list[str] = []
    for line in text:
        comment = len(record) == 1 and record[0].strip().isdecimal()
        if line.strip().isdecimal() and record and not comment:
            yield record
            record = []
        if line.strip() or comment:
            record.append(line)
    if record:
        yield record


def _loses_digits(rows: Sequence[str]) -> bool:
    """Whether all numbers at the end of a row have as many decimals, at least four, and the last one fewer."""
    *others, last = [len(row.split()[-1].partition(".")[2]) for row in rows]
    return len(set(others)) == 1 and max(4, last + 1) <= others[0]


def _database_records(file: Path) -> Records:
    from ase.db import connect

    try:
        database: Any = connect(file)
        ids = [row.id for row in database.select(columns=["id"], include_data=False)]
    except Exception as error:
        yield None, _raiser(error)
        return
    for index, number in enumerate(ids):
        yield index, lambda number=number: database.get(id=number).toatoms()


def _trajectory_records(file: Path) -> Records:
    from ase.io import Trajectory

    try:
        trajectory: Any = Trajectory(file)
    except Exception as error:
        yield None, _raiser(error)
        return
    with trajectory:
        for index in range(len(trajectory)):
            yield index, lambda index=index: trajectory[index]


def _stream_records(file: Path) -> Records:
    """By any other of ASE's readers, which ends where it fails."""
    from ase.io import iread

    frames = iter(iread(file))
    index = 0
    while True:
        try:
            atoms: Any = next(frames)
        except StopIteration:
            return
        except Exception as error:
            yield index, _raiser(ValueError(f"unreadable from here on: {_in_one_line(error)}"))
            return
        yield index, lambda atoms=atoms: atoms
        index += 1


def _raiser(error: Exception) -> Callable[[], Atoms]:
    def read() -> Atoms:
        raise error

    return read


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read(read: Callable[[], Atoms]) -> Atoms:
    try:
        return read()
    except Exception as error:  # a damaged record can raise almost anything
        raise ValueError(_in_one_line(error)) from error


# ---- checking


def _item(atoms: Atoms, cutoff: float, max_neighbors: int | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of one structure; ValueError if something about it is impossible."""
    from equiformer_pytorch.graph.periodic import radius_graph

    count = len(atoms)
    if not count:
        raise ValueError("it has no atoms")
    unknown = sorted({int(z) for z in atoms.numbers if not 1 <= z <= LAST_ELEMENT})
    if unknown:
        raise ValueError(f"unknown species: atomic number {', '.join(map(str, unknown))}")
    pos = _finite("positions", atoms.positions, (count, 3))
    cell = _finite("cell", atoms.cell.array, (3, 3))
    labels = _labels(atoms)

    positions, box, periodic = torch.tensor(pos), torch.tensor(cell), torch.tensor(atoms.pbc)
    edge_index, cell_offsets = radius_graph(
        positions, cutoff, cell=box[None], pbc=periodic[None], max_neighbors=max_neighbors
    )
    return {
        "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.int64),
        "pos": positions.to(dtype),
        "cell": box.to(dtype),
        "pbc": periodic,
        "edge_index": edge_index,
        "cell_offsets": cell_offsets,
        **{name: torch.tensor(value, dtype=None if name == "energy" else dtype) for name, value in labels.items()},
    }


def _labels(atoms: Atoms) -> dict[str, np.ndarray]:
    """Those of `LABELS` that were read with the structure; nothing is calculated."""
    results: dict[str, Any] = getattr(atoms.calc, "results", {})
    found = {name: results[name] for name in LABELS if results.get(name) is not None}
    if "stress" in found and np.shape(found["stress"]) == (6,):
        xx, yy, zz, yz, xz, xy = found["stress"]
        found["stress"] = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    shapes = {"energy": (), "forces": (len(atoms), 3), "stress": (3, 3)}
    return {name: _finite(name, value, shapes[name]) for name, value in found.items()}


def _finite(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """As float64; ValueError unless of this shape, and finite."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {value!r} is no array of numbers") from error
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}, wanted {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: not finite")
    return array
