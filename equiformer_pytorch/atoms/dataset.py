"""Structures on disk: what ASE reads, as a dataset with graphs.

Units are ASE's: Å, eV, eV/Å, and eV/Å³ for the stress, which is positive under tension.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from equiformer_pytorch.atoms.collate import collate_structures
from equiformer_pytorch.atoms.files import open_records
from equiformer_pytorch.atoms.items import Checked, Form, make_items, make_possible_items
from equiformer_pytorch.atoms.labels import LabelReader
from equiformer_pytorch.atoms.records import Records, Unreadable, quietly
from equiformer_pytorch.base.checks import check_number

if TYPE_CHECKING:
    from ase import Atoms

    from equiformer_pytorch.base.potential import Input, Target

__all__ = ["LazyItems", "Skipped", "StructureDataset", "collate_structures", "load_structures"]

# Structures, and atoms, whose neighbours are searched for at once.
STRUCTURES_AT_ONCE, ATOMS_AT_ONCE = 256, 4096
# Records whose names of labels are looked at where not all are read.
RECORDS_FOR_NAMES = 100
# Records in a row that may be damaged before a data set is given up.
MOST_IN_A_ROW = 1000


@dataclass(frozen=True)
class Skipped:
    """A record that was left out: file, place in the file from 0 (None: nothing of it could be read), and reason."""

    file: Path
    index: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.index is None else f', record {self.index}'}: {self.reason}"


@dataclass(frozen=True)
class Origins:
    """All records of several files, one file after the other."""

    files: tuple[Records, ...]

    def __len__(self) -> int:
        return sum(map(len, self.files))

    def place(self, number: int) -> tuple[Records, int]:
        """The file that has a record, and the place of the record there."""
        ends = list(accumulate(map(len, self.files)))
        file = bisect_right(ends, number)
        return self.files[file], number - (ends[file] - len(self.files[file]))

    def atoms(self, number: int) -> Atoms:
        """The record; ValueError where it cannot be read."""
        records, index = self.place(number)
        with quietly():
            return records[index]

    def skipped(self, number: int, error: ValueError) -> Skipped:
        """What is said of a record that cannot be used."""
        records, index = self.place(number)
        return Skipped(records.file, None if isinstance(records, Unreadable) else index, " ".join(str(error).split()))

    def close(self) -> None:
        """Files that are open."""
        for records in self.files:
            records.close()


class StructureDataset(Dataset[dict[str, Tensor]]):
    """Structures with their graphs; `skipped` are the records that were left out.

    Args:
        items: dicts of tensors, in memory or read when they are asked for.
        skipped: what was left out.
        origins, numbers: the files, and which record of them each item is, all in order by default.
    """

    def __init__(
        self,
        items: Sequence[Any],
        skipped: Sequence[Skipped] = (),
        origins: Origins | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.items: Sequence[dict[str, Tensor]] = items
        self.skipped = tuple(skipped)
        self.origins = origins
        self.numbers = range(len(items)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self.items[index] for index in range(len(self.items)))

    def atoms(self, index: int) -> Atoms:
        """The record behind item number `index`, read again; ValueError for items that came from no file."""
        if self.origins is None:
            raise ValueError("origins is missing: these items came from no file")
        return self.origins.atoms(self.numbers[index])

    def file(self, index: int) -> Path:
        """Where item number `index` came from; ValueError for items that came from no file."""
        if self.origins is None:
            raise ValueError("origins is missing: these items came from no file")
        return self.origins.place(self.numbers[index])[0].file

    def with_items(self, items: Sequence[Any]) -> StructureDataset:
        """The same records, read in another way: as these `items`."""
        return StructureDataset(items, self.skipped, self.origins, self.numbers)

    def subset(self, indices: Sequence[int]) -> StructureDataset:
        """Those at `indices`, in this order."""
        items = self.items.subset(indices) if isinstance(self.items, LazyItems) else [self.items[i] for i in indices]
        return StructureDataset(items, self.skipped, self.origins, [self.numbers[index] for index in indices])


class LazyItems(Sequence[dict[str, Tensor]]):
    """Items that are read, and their graphs made, when they are asked for: for more than fits into memory.

    In place of a record that cannot be used comes the next one that can, with the numbers of those passed over in
    `damaged`, or a ValueError with `on_error="raise"`.
    """

    def __init__(
        self,
        origins: Origins,
        numbers: Sequence[int],
        reader: LabelReader,
        form: Form,
        on_error: str,
        species: frozenset[int] | None = None,
        periodic: bool = True,
    ) -> None:
        self.origins, self.numbers, self.reader, self.form = origins, numbers, reader, form
        self.on_error, self.species, self.periodic = on_error, species, periodic

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        damaged: list[int] = []
        for step in range(min(len(self), MOST_IN_A_ROW)):
            number = self.numbers[(index + step) % len(self)]
            try:
                item = make_items([self._read(number)], self.form)[0]
            except ValueError as error:
                if self.on_error == "raise":
                    raise ValueError(str(self.origins.skipped(number, error))) from error
                damaged.append(number)
                continue
            return item | ({"damaged": torch.tensor(damaged, device="cpu")} if damaged else {})
        raise ValueError(f"{len(damaged)} records in a row cannot be used, the first: {self.why(damaged[0])}")

    def without_graph(self, index: int) -> Checked | None:
        """The record behind an item, for who wants to know of all of them what is quick to know; None if damaged."""
        try:
            return self._read(self.numbers[index])
        except ValueError:
            return None

    def names(self) -> str | None:
        """What is to be said of the names of labels in the first records, see :class:`LabelReader`."""
        for index in range(min(len(self), RECORDS_FOR_NAMES)):
            self.without_graph(index)
        return self.reader.summary()

    def only_of(self, species: Iterable[int], periodic: bool) -> LazyItems:
        """The same, but records with other elements count as damaged, and unless potentials see them `periodic`, those
        that are."""
        known = frozenset(species)
        return LazyItems(self.origins, self.numbers, self.reader, self.form, self.on_error, known, periodic)

    def _read(self, number: int) -> Checked:
        read = Checked.of(self.origins.atoms(number), self.reader)
        strange = set() if self.species is None else set(map(int, read.numbers)) - self.species
        if strange:
            raise ValueError(f"atomic numbers {sorted(strange)}, which the potential does not know")
        if not self.periodic and read.pbc.any():
            raise ValueError("it is periodic, and the potential does not see it so (use_pbc=False)")
        return read

    def why(self, number: int) -> Skipped:
        """What is wrong with a record, by its number in all files."""
        try:
            make_items([self._read(number)], self.form)
        except ValueError as error:
            return self.origins.skipped(number, error)
        return self.origins.skipped(number, ValueError("it could not be used before, and can now"))

    def subset(self, indices: Sequence[int]) -> LazyItems:
        """Some of them, in this order."""
        numbers = [self.numbers[index] for index in indices]
        return LazyItems(self.origins, numbers, self.reader, self.form, self.on_error, self.species, self.periodic)


def load_structures(
    path: str | Path | Sequence[str | Path],
    cutoff: float,
    *,
    max_neighbors: int | None = None,
    strict_neighbors: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    dtype: torch.dtype | None = None,
    keys: Mapping[str, str] | None = None,
    targets: Mapping[str, Target] | None = None,
    inputs: Mapping[str, Input] | None = None,
    lazy: bool = False,
) -> StructureDataset:
    """All structures of one or several files that ASE reads (extxyz, db, aselmdb, traj, …), with graphs made once.

    An item has atomic_numbers (n,), pos (n, 3), cell (3, 3), pbc (3,), edge_index (2, E) as sender and receiver,
    cell_offsets (E, 3), and those of energy (), forces (n, 3) and stress (3, 3) that the record gives. A virial becomes
    a stress, −virial / volume. An atom that is alone has `isolated`.

    Names in the files that look like labels, and that nothing reads, are said in one warning.

    Args:
        path: a file or several.
        cutoff: radius of the graph, in Å.
        max_neighbors: at most so many nearest neighbours of an atom; all within the cutoff by default.
        strict_neighbors: False: also those that are hardly farther than the first one left out, see
            :func:`~equiformer_pytorch.atoms.radius_graph`; as the potential's `strict_neighbors`.
        on_error: what to do with a record that cannot be used, be it unreadable, cut short, not finite, or with labels
            of the wrong shape: "raise" a ValueError that names file, record and reason, or "skip" it and name all
            that were skipped in one warning.
        dtype: of the floating-point tensors; torch's default by default. Graphs are made in float64, and energies
            stay in it: sums of reference energies have more digits than float32 holds.
        keys: names of labels in the files where they are others, see :class:`LabelReader`:
            ``{"energy": "REF_energy", "forces": "REF_forces", "virial": "REF_virial"}``.
        targets: further labels, as :class:`EquiformerPotential` takes them; items then have them, with a first axis of
            atoms or of one, and ``has_NAME``.
        inputs: what a potential takes beside, as its `inputs`; items then have them, defaults where a record says
            nothing. Charges and spins that are not taken are said in one warning.
        lazy: read records and make their graphs when they are asked for: for more than fits into memory. With
            `on_error` "skip", in place of a record that cannot be used comes the next one that can.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: ASE is not installed, or what it needs for a format.
        ValueError: a record cannot be used, or none can; arguments that make no sense.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    check_number("cutoff", cutoff, 0, whole=False, exclusive=True)
    check_number("max_neighbors", max_neighbors, 1)
    form = Form(cutoff, max_neighbors, strict_neighbors, torch.get_default_dtype() if dtype is None else dtype)
    reader = LabelReader(keys, targets, inputs)
    paths = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
    for file in paths:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    origins = Origins(tuple(open_records(file) for file in paths))
    if lazy:
        items = LazyItems(origins, range(len(origins)), reader, form, on_error)
        if not len(items):
            raise ValueError(f"no structure in {', '.join(map(str, paths)) or 'an empty list of files'}")
        return StructureDataset(items, (), origins)
    try:
        with quietly():
            dataset = _read_all(origins, reader, form, on_error)
    finally:
        origins.close()
    if dataset.skipped:
        listed = "\n".join(f"  {record}" for record in dataset.skipped)
        warnings.warn(f"left out {len(dataset.skipped)} of {len(origins)} records:\n{listed}", stacklevel=2)
    if not len(dataset):
        raise ValueError(f"no structure in {', '.join(map(str, paths)) or 'an empty list of files'}")
    said = reader.summary()
    if said is not None:
        warnings.warn(f"{', '.join(map(str, paths))}: {said}", stacklevel=2)
    return dataset


def _read_all(origins: Origins, reader: LabelReader, form: Form, on_error: str) -> StructureDataset:
    """All items, searching for the neighbours of many structures at once."""
    items: list[dict[str, Tensor]] = []
    numbers: list[int] = []
    skipped: dict[int, Skipped] = {}
    waiting: list[tuple[int, Checked]] = []
    atoms = 0

    def leave_out(number: int, error: ValueError) -> None:
        skipped[number] = origins.skipped(number, error)
        if on_error == "raise":
            raise ValueError(str(skipped[number])) from error

    def finish() -> None:
        places = [number for number, _ in waiting]
        structures = [structure for _, structure in waiting]
        waiting.clear()
        for place, item in make_possible_items(structures, form, lambda place, error: leave_out(places[place], error)):
            items.append(item)
            numbers.append(places[place])

    number = 0
    for records in origins.files:
        for record in records.each():
            try:
                if isinstance(record, ValueError):
                    raise record
                waiting.append((number, Checked.of(record, reader)))
                atoms += len(record)
            except ValueError as error:
                if on_error == "raise":
                    finish()  # what is wrong with an earlier one comes first
                leave_out(number, error)
            number += 1
            if len(waiting) == STRUCTURES_AT_ONCE or atoms >= ATOMS_AT_ONCE:
                finish()
                atoms = 0
    if waiting:
        finish()
    return StructureDataset(items, [skipped[number] for number in sorted(skipped)], origins, numbers)
