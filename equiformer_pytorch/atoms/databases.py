"""ASE's databases as records: of any kind that `ase.db` opens, and those of LMDB."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiformer_pytorch.atoms.records import OpenedRecords, calling, is_marked, without_mark

if TYPE_CHECKING:
    from ase import Atoms


class DatabaseRecords(OpenedRecords):
    """Rows in the order of their ids; their data and key-value pairs are in `info`."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.path = file
        if file.suffix.lower() == ".json" and is_marked(file):
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.path = without_mark(file, Path(folder))
        self.ids = self._ids(self.opened())

    def _open(self) -> Any:
        from ase.db import connect

        return connect(self.path)

    def _ids(self, database: Any) -> list[int]:
        return [row.id for row in database.select(columns=["id"], include_data=False)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Atoms:  # pyright: ignore[reportIncompatibleMethodOverride]
        row = calling(lambda: self.opened().get(id=self.ids[index]))
        atoms = calling(row.toatoms)
        atoms.info = {**row.get("data", {}), **row.key_value_pairs, **atoms.info}
        return atoms


# LMDB wants no file to be opened twice in a process.
_LMDB: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()


class LMDBRecords(DatabaseRecords):
    """Of fairchem's .aselmdb, by `ase-db-backends`."""

    def _open(self) -> Any:
        try:
            import lmdb  # pyright: ignore[reportMissingImports]
            from ase_db_backends.aselmdb import LMDBDatabase  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ImportError(f"reading {self.file} needs {error.name}: pip install ase-db-backends") from error
        path = self.path.resolve()
        database = _LMDB.get(path)
        if database is None:
            with lmdb.open(str(path), subdir=False, readonly=True, lock=False):
                pass  # says what is wrong with a file, which the database itself does badly
            database = LMDBDatabase(str(path), use_lock_file=False, readonly=True)
            _LMDB[path] = database
        elif database._env_pid != os.getpid():
            database._env.close()  # the parent's: a process that forks leaves it to its children
            database._open_lmdb_env()
        return database

    def _ids(self, database: Any) -> list[int]:
        return list(database.ids)

    def close(self) -> None:
        """Closed once nobody reads it."""
        self._opened = None
