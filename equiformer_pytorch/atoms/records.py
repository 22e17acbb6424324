"""Files of structures as sequences of records that ASE reads, each by itself and when it is asked for.

A record that cannot be read is its own affair: asking for it raises a ValueError that says what is wrong with it.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# ASE takes these for 3×3 matrices and refuses the six numbers of Voigt's notation.
SIX_NUMBERS = re.compile(r'(?<![\w-])(stress|virial)(?==["{]\s*(?:[^\s"}]+\s+){5}[^\s"}]+\s*["}])')
RENAMED = "six_numbers_of_"
RECORDS_AT_ONCE = 64


@contextmanager
def quietly() -> Iterator[None]:
    """Without ASE's words, say about columns that it renames."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Records(Sequence[Any]):
    """The records of a file, from 0; can be pickled and read in other processes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def each(self) -> Iterator[Atoms | ValueError]:
        """All records in order, or what is wrong with them."""
        for index in range(len(self)):
            try:
                yield self[index]
            except ValueError as error:
                yield error

    def close(self) -> None:
        """Files that are open; they are opened again where they are needed."""

    def __getstate__(self) -> dict[str, Any]:
        self.close()
        return self.__dict__


class Unreadable(Records):
    """One record, which says why nothing can be read."""

    def __init__(self, file: Path, error: Exception) -> None:
        super().__init__(file)
        self.reason = in_one_line(error)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Atoms:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise ValueError(self.reason)


class OpenedRecords(Records):
    """Of a file that stays open, once in each process."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._opened: Any = None
        self._process = 0

    def opened(self) -> Any:
        """What reads the file."""
        if self._opened is None or self._process != os.getpid():
            self._opened, self._process = self._open(), os.getpid()
        return self._opened

    def _open(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Until it is needed again."""
        if hasattr(self._opened, "close") and self._process == os.getpid():
            self._opened.close()
        self._opened = None

    def __del__(self) -> None:
        if getattr(self, "_opened", None) is not None:
            self.close()


class XYZRecords(OpenedRecords):
    """The text between two counts, so that a damaged record does not take the next ones with it."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.starts, self.size = _record_starts(self.opened())

    def _open(self) -> Any:
        return self.file.open("rb")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Atoms:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _atoms_of_xyz([self._lines(index)])[0]

    def each(self) -> Iterator[Atoms | ValueError]:
        """Many at once where all are well: ASE reads them faster so."""
        for first in range(0, len(self), RECORDS_AT_ONCE):
            some = range(first, min(first + RECORDS_AT_ONCE, len(self)))
            try:
                yield from _atoms_of_xyz([self._lines(index) for index in some])
            except ValueError:
                for index in some:
                    try:
                        yield self[index]
                    except ValueError as error:
                        yield error

    def _lines(self, index: int) -> list[str]:
        """The text of a record; ValueError where it is not what it says."""
        end = self.starts[index + 1] if index + 1 < len(self.starts) else self.size
        file = self.opened()
        file.seek(self.starts[index])
        text = file.read(end - self.starts[index]).removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace")
        lines = _without_blank_lines(list(io.StringIO(text, newline=None)))
        if not lines[0].strip().isdecimal():
            raise ValueError(f"it begins with {lines[0].strip()[:40]!r}, not with a number of atoms")
        wanted, found = int(lines[0]), sum(not line.startswith("VEC") for line in lines[2:])  # VEC1 … VEC3: a cell
        if found < wanted:
            raise ValueError(f"cut short: {found} of {wanted} atoms")
        if found > wanted:
            raise ValueError(f"{found - wanted} lines more than its {wanted} atoms")
        if not lines[-1].endswith("\n"):
            if _loses_digits(lines[2:]):
                raise ValueError(f"cut short: the file ends in {lines[-1][-20:]!r}")
            lines[-1] += "\n"
        if len(lines) > 1 and ("stress" in lines[1] or "virial" in lines[1]):
            lines[1] = SIX_NUMBERS.sub(rf"{RENAMED}\1", lines[1])
        return lines


def _record_starts(lines: Iterable[bytes]) -> tuple[list[int], int]:
    """Where records begin: at a line that is nothing but a whole number, unless that is a comment; and the file's size.

    Blank lines belong to no record, but for a comment.
    """
    starts: list[int] = []
    position, length, first = 0, 0, b""
    for line in lines:
        stripped = line.removeprefix(BYTE_ORDER_MARK).strip() if position == 0 else line.strip()
        comment = length == 1 and first.isdigit()
        if stripped.isdigit() and not comment:
            length = 0
        if stripped or comment:
            if length == 0:
                starts.append(position)
                first = stripped
            length += 1
        position += len(line)
    return starts, position


def _without_blank_lines(lines: list[str]) -> list[str]:
    """But for a comment."""
    start = next(number for number, line in enumerate(lines) if line.strip())
    comment = start + 1 if lines[start].strip().isdecimal() else start
    return [line for number, line in enumerate(lines) if number == comment or line.strip()]


def _atoms_of_xyz(records: list[list[str]]) -> list[Atoms]:
    """Of the lines of each; ValueError where ASE cannot read one of them."""
    from ase.io import read

    text = io.StringIO("".join(line for lines in records for line in lines))
    try:
        frames: Any = read(text, ":", format="extxyz")
    except KeyError as error:
        raise ValueError(f"unknown species {error}") from error
    except Exception as error:  # almost anything
        raise ValueError(in_one_line(error)) from error
    if len(frames) != len(records):
        raise ValueError(f"{len(frames)} structures in {len(records)} records")
    for atoms in frames:
        for name in [name for name in atoms.info if name.startswith(RENAMED)]:
            atoms.info[name.removeprefix(RENAMED)] = atoms.info.pop(name)
    return frames


def _loses_digits(rows: Sequence[str]) -> bool:
    """Whether all numbers at the end of a row have as many decimals, at least four, and the last one fewer."""
    *others, last = [len(row.split()[-1].partition(".")[2]) for row in rows]
    return len(set(others)) == 1 and max(4, last + 1) <= others[0]


class TrajectoryRecords(OpenedRecords):
    """Of ASE's .traj."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.length = len(self.opened())

    def _open(self) -> Any:
        from ase.io import Trajectory

        return Trajectory(self.file)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Atoms:  # pyright: ignore[reportIncompatibleMethodOverride]
        return calling(lambda: self.opened()[index])


class StreamRecords(Records):
    """By any other of ASE's readers, which ends where it fails: all are read at once."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.frames: list[Atoms] = []
        self.broken: str | None = None
        with tempfile.TemporaryDirectory() as folder:
            frames = _frames(without_mark(file, Path(folder)))
            while True:
                try:
                    self.frames.append(next(frames))
                except StopIteration:
                    return
                except Exception as error:
                    self.broken = f"unreadable from here on: {in_one_line(error)}"
                    return

    def __len__(self) -> int:
        return len(self.frames) + (self.broken is not None)

    def __getitem__(self, index: int) -> Atoms:  # pyright: ignore[reportIncompatibleMethodOverride]
        if index == len(self.frames):
            raise ValueError(self.broken)
        return self.frames[index]


def _frames(file: Path) -> Any:
    from ase.io import iread

    return iter(iread(file))


def is_marked(file: Path) -> bool:
    """Whether it begins with the mark that some editors put before text in UTF-8."""
    with file.open("rb") as content:
        return content.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK


def without_mark(file: Path, folder: Path) -> Path:
    """The file, or a copy in `folder` where it is marked."""
    if not is_marked(file):
        return file
    copy = folder / file.name
    copy.write_bytes(file.read_bytes().removeprefix(BYTE_ORDER_MARK))
    return copy


def calling(read: Callable[[], Any]) -> Any:
    """What it returns; ValueError in place of any other error."""
    try:
        return read()
    except Exception as error:  # a damaged record can raise almost anything
        raise ValueError(in_one_line(error)) from error


def in_one_line(error: Exception) -> str:
    """What it says, and its kind where that alone does not tell."""
    said = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
