"""Files of structures: which kind of records a file has."""

from __future__ import annotations

from pathlib import Path

from equiformer_pytorch.atoms.databases import DatabaseRecords, LMDBRecords
from equiformer_pytorch.atoms.records import Records, StreamRecords, TrajectoryRecords, Unreadable, XYZRecords

KINDS: dict[str, type[Records]] = {
    ".xyz": XYZRecords,
    ".extxyz": XYZRecords,
    ".traj": TrajectoryRecords,
    ".db": DatabaseRecords,
    ".json": DatabaseRecords,
    ".aselmdb": LMDBRecords,
}


def open_records(file: Path) -> Records:
    """The records of a file in any format that ASE reads.

    Raises:
        ImportError: ASE is not there, or what it needs to read .aselmdb.
    """
    try:
        import ase  # noqa: F401
    except ImportError as error:
        raise ImportError('reading structures needs ASE: pip install "equiformer-pytorch[atoms]"') from error
    try:
        return KINDS.get(file.suffix.lower(), StreamRecords)(file)
    except ImportError:
        raise
    except Exception as error:  # a damaged file can raise almost anything
        return Unreadable(file, error)
