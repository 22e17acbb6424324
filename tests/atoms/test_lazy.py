"""Records that are read, and graphs that are made, when they are asked for: also in other processes."""

from __future__ import annotations

import pickle
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ase", reason="needs the extra atoms")

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch.utils.data import DataLoader

from equiformer_pytorch.atoms import collate_structures, load_structures
from equiformer_pytorch.atoms.dataset import LazyItems
from tests.atoms.databases import connect

CUTOFF = 3.0
SUFFIXES = ["xyz", "traj", "db", "json", *["aselmdb"] * (find_spec("ase_db_backends") is not None)]


def frames() -> list[Atoms]:
    made = []
    for seed, name in enumerate(("H2O", "CH3OH", "NH3", "C6H6", "N2", "CH4")):
        rng = np.random.default_rng(seed)
        atoms = molecule(name)
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)))
        made.append(atoms)
    return made


def saved(folder: Path, suffix: str) -> Path:
    path = folder / f"data.{suffix}"
    if suffix in ("db", "json", "aselmdb"):
        with connect(path) as database:
            for atoms in frames():
                database.write(atoms)
    else:
        write(path, frames(), format="extxyz" if suffix == "xyz" else None)
    return path


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_items(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, suffix)
    whole, lazy = load_structures(path, CUTOFF), load_structures(path, CUTOFF, lazy=True)
    assert isinstance(lazy.items, LazyItems)
    assert len(lazy) == len(whole) == 6
    for index in (3, 0, 5, 1, 1):
        assert_same(lazy[index], whole[index])
        assert str(lazy.atoms(index).symbols) == str(whole.atoms(index).symbols)
    some = lazy.subset([4, 1])
    assert_same(some[1], whole[1])
    assert str(some.atoms(0).symbols) == str(whole.subset([4, 1]).atoms(0).symbols) == "N2"
    with pytest.raises(IndexError, match="item 6 of 6"):
        lazy[6]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pickled_and_in_workers(tmp_path: Path, suffix: str) -> None:
    lazy = load_structures(saved(tmp_path, suffix), CUTOFF, lazy=True)
    wanted = [lazy[index] for index in range(6)]
    copy = pickle.loads(pickle.dumps(lazy))
    assert_same(copy[2], wanted[2])
    loader = DataLoader(lazy, batch_size=2, collate_fn=collate_structures, num_workers=2)
    for number, batch in enumerate(loader):
        assert_same(batch, collate_structures(wanted[2 * number : 2 * number + 2]))
    assert_same(lazy[0], wanted[0])


def test_nothing_is_read_before(tmp_path: Path) -> None:
    """Not even a damaged record, which names itself when its turn comes."""
    path = saved(tmp_path, "xyz")
    path.write_text(path.read_text().replace("N ", "Qq ", 1))
    lazy = load_structures(path, CUTOFF, lazy=True)
    lazy[0]
    with pytest.raises(ValueError, match=r"data\.xyz, record 2: unknown species 'Qq'"):
        lazy[2]


def test_damaged_records_are_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path, "db")
    with sqlite3.connect(path) as raw:
        raw.execute("update systems set positions = ? where id in (3, 4)", (b"damaged",))
    lazy = load_structures(path, CUTOFF, lazy=True, on_error="skip")
    whole = load_structures(saved(tmp_path, "xyz"), CUTOFF)
    assert lazy[2].pop("damaged").tolist() == [2, 3]
    item = lazy[3]
    assert item.pop("damaged").tolist() == [3]
    assert item["atomic_numbers"].tolist() == whole[4]["atomic_numbers"].tolist()
    batch = collate_structures([lazy[0], lazy[2], lazy[3]])
    assert batch["damaged"].tolist() == [2, 3, 3]
    records: Any = lazy.items
    assert str(records.why(3)).startswith(f"{path}, record 3: ")


def test_all_damaged(tmp_path: Path) -> None:
    path = saved(tmp_path, "db")
    with sqlite3.connect(path) as raw:
        raw.execute("update systems set positions = ?", (b"damaged",))
    with pytest.raises(ValueError, match=r"6 records in a row cannot be used, the first: .*record 1: "):
        load_structures(path, CUTOFF, lazy=True, on_error="skip")[1]


@pytest.mark.parametrize("suffix", ["aselmdb", "db", "xyz"])
def test_noise(tmp_path: Path, suffix: str) -> None:
    if suffix not in SUFFIXES:
        pytest.skip("needs ase-db-backends")
    path = tmp_path / f"noise.{suffix}"
    path.write_bytes(bytes(range(1, 256)) * 40)
    with pytest.raises(ValueError, match=rf"noise\.{suffix}"):
        load_structures(path, CUTOFF, lazy=True)[0]


def test_without_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    monkeypatch.setitem(sys.modules, "ase_db_backends.aselmdb", None)
    (tmp_path / "data.aselmdb").write_bytes(b"")
    with pytest.raises(ImportError, match=r"reading .*data\.aselmdb needs ase_db_backends.*: pip install"):
        load_structures(tmp_path / "data.aselmdb", CUTOFF)
