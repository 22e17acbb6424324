"""Structures on disk: what is read, what is refused, and batches."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ase", reason="needs the extra atoms")

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.io.trajectory import TrajectoryWriter
from ase.neighborlist import neighbor_list
from torch.utils.data import DataLoader

from equiformer_pytorch.atoms.dataset import StructureDataset, collate_structures, load_structures
from tests.atoms.databases import connect

CUTOFF = 3.0


def labelled(atoms: Atoms, seed: int, *, stress: bool = False) -> Atoms:
    """With random labels in ASE's standard place."""
    rng = np.random.default_rng(seed)
    results = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
    atoms.calc = SinglePointCalculator(atoms, **results, **({"stress": rng.normal(size=6)} if stress else {}))
    return atoms


def molecules() -> list[Atoms]:
    return [labelled(molecule(name), seed) for seed, name in enumerate(("H2O", "CH3OH", "NH3", "C6H6"))]


def crystals() -> list[Atoms]:
    slab = bulk("Al", "fcc", cubic=True)
    slab.pbc = (True, True, False)
    return [labelled(bulk("NaCl", "rocksalt", a=5.6), 0, stress=True), labelled(slab, 1, stress=True)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "molecules.xyz"
    write(path, molecules(), format="extxyz")
    return path


def edit(path: Path, record: int, change: Callable[[list[str]], list[str]]) -> None:
    """Changes the lines of one record of an xyz file."""
    lines, records = path.read_text().splitlines(), []
    while lines:
        size = int(lines[0]) + 2
        records.append(lines[:size])
        lines = lines[size:]
    records[record] = change(records[record])
    path.write_text("\n".join(line for lines in records for line in lines) + "\n")


def assert_item(item: dict[str, torch.Tensor], atoms: Atoms) -> None:
    """What the file says, and the edges that ASE finds."""
    assert item["atomic_numbers"].tolist() == atoms.numbers.tolist()
    np.testing.assert_allclose(item["pos"], atoms.positions, atol=1e-6)
    np.testing.assert_allclose(item["cell"], atoms.cell.array, atol=1e-6)
    assert item["pbc"].tolist() == atoms.pbc.tolist()
    assert item["energy"].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(item["forces"], atoms.get_forces(), atol=1e-6)
    assert item["edge_index"].shape == (2, len(neighbor_list("i", atoms, CUTOFF)))
    sender, receiver = item["edge_index"]
    vector = item["pos"][sender] + item["cell_offsets"].to(item["cell"]) @ item["cell"] - item["pos"][receiver]
    wanted = np.sort(neighbor_list("d", atoms, CUTOFF))
    np.testing.assert_allclose(vector.norm(dim=-1).sort().values, wanted, atol=1e-5)


# ---- what is read


@pytest.mark.parametrize("suffix", ["xyz", "extxyz", "traj", "db", "json"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"structures.{suffix}"
    structures = [*molecules(), *crystals()]
    if suffix in ("db", "json"):
        with connect(path) as database:
            for atoms in structures:
                database.write(atoms)
    else:
        write(path, structures, format="extxyz" if suffix == "xyz" else None)
    data = load_structures(path, CUTOFF)
    assert len(data) == len(structures)
    assert data.skipped == ()
    for item, atoms in zip([data[k] for k in range(len(data))], structures, strict=True):
        assert_item(item, atoms)
        assert ("stress" in item) == atoms.pbc.any()
    np.testing.assert_allclose(data[4]["stress"], structures[4].get_stress(voigt=False), rtol=1e-6)


def test_other_formats_and_several_files(tmp_path: Path, file: Path) -> None:
    """A plain structure without labels; files in the order given."""
    write(tmp_path / "POSCAR", bulk("Si"), format="vasp")
    data = load_structures([str(tmp_path / "POSCAR"), file], CUTOFF)
    assert len(data) == 5
    assert "energy" not in data[0]
    assert "forces" in data[1]


def test_dtype(file: Path) -> None:
    item = load_structures(file, CUTOFF)[0]
    assert item["pos"].dtype == item["forces"].dtype == torch.get_default_dtype()
    assert item["energy"].dtype == torch.float64  # -1000 eV ± 1 meV does not fit into float32
    item = load_structures(file, CUTOFF, dtype=torch.float64)[0]
    for name in ("pos", "cell", "energy", "forces"):
        assert item[name].dtype == torch.float64
    assert item["atomic_numbers"].dtype == item["edge_index"].dtype == torch.int64


def test_plain_xyz_and_labels_elsewhere(tmp_path: Path) -> None:
    """A comment may be a number or empty; blank lines at the end are no record."""
    path = tmp_path / "plain.xyz"
    path.write_text("2\n7\nH 0 0 0\nH 0 0 0.74\n1\n\nHe 0 0 0\n\n\n")
    data = load_structures(path, CUTOFF)
    assert [len(item["pos"]) for item in data.items] == [2, 1]
    assert data[1]["edge_index"].shape == (2, 0)
    assert "energy" not in data[0]


# ---- what is refused

DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "cut short": (lambda lines: lines[:-2], "cut short: 4 of 6 atoms"),
    "too long": (lambda lines: [*lines, lines[-1]], "1 lines more than its 6 atoms"),
    "no count": (lambda lines: ["six", *lines[1:]], "8 lines more than its 3 atoms"),
    "NaN position": (lambda lines: [*lines[:2], "C nan 0 0 0 0 0", *lines[3:]], "positions: not finite"),
    "NaN force": (lambda lines: [*lines[:2], "C 0 0 0 0 0 nan", *lines[3:]], "forces: not finite"),
    "no number": (lambda lines: [*lines[:2], "C **** 0 0 0 0 0", *lines[3:]], r"\*\*\*\*"),
    "unknown species": (lambda lines: [*lines[:2], "Qq 0 0 0 0 0 0", *lines[3:]], "Qq"),
    "no species": (lambda lines: [*lines[:2], "X 0 0 0 0 0 0", *lines[3:]], "unknown species: atomic number 0"),
    "forces of two columns": (
        lambda lines: [lines[0], lines[1].replace("forces:R:3", "forces:R:2"), *[row[:-17] for row in lines[2:]]],
        "forces|shape",
    ),
    "unknown energy": (
        lambda lines: [lines[0], re.sub(r"energy=\S+", "energy=?", lines[1]), *lines[2:]],
        "energy",
    ),
    "flat cell": (
        lambda lines: [lines[0], lines[1].replace('pbc="F F F"', 'Lattice="4 0 0 8 0 0 0 0 4"'), *lines[2:]],
        "has no volume",
    ),
    "no atoms": (lambda lines: ["0", *lines[1:2]], "no atoms"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_xyz_record_is_named(file: Path, damage: str) -> None:
    change, reason = DAMAGES[damage]
    whole = load_structures(file, CUTOFF)
    edit(file, 1, change)
    place = 0 if damage == "no count" else 1  # without its count it cannot be told from the end of the one before
    with pytest.raises(ValueError, match=reason) as caught:
        load_structures(file, CUTOFF)
    assert f"molecules.xyz, record {place}: " in str(caught.value)
    with pytest.warns(UserWarning, match=f"left out 1 of .*(\n.*)*record {place}: ") as warned:
        data = load_structures(file, CUTOFF, on_error="skip")
    assert len(warned) == 1
    assert [(record.file, record.index) for record in data.skipped] == [(file, place)]
    assert_same(data.items[-2:], whole.items[-2:])  # the ones after it are read all the same


def assert_same(left: Any, right: Any) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("lost", [1, 5, 14, 100])
def test_truncated_xyz(file: Path, lost: int) -> None:
    """Also within the last number, which would still be one."""
    file.write_text(file.read_text()[: -lost - 1])
    with pytest.raises(ValueError, match=r"molecules\.xyz, record 3: "):
        load_structures(file, CUTOFF)


def test_without_the_last_newline(tmp_path: Path, file: Path) -> None:
    file.write_text(file.read_text()[:-1])
    assert len(load_structures(file, CUTOFF)) == 4
    by_hand = tmp_path / "by_hand.xyz"
    by_hand.write_text("3\n\nO 0 0 0.00\nH 0 0 0.96\nH 0 0.9 0")
    assert len(load_structures(by_hand, CUTOFF)) == 1


def test_one_warning_names_all(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.xyz"
    write(other, molecules(), format="extxyz")
    edit(file, 0, DAMAGES["cut short"][0])
    edit(other, 3, lambda lines: lines[:-3])
    with pytest.warns(UserWarning, match="left out 2 of 8") as warned:
        data = load_structures([file, other], CUTOFF, on_error="skip")
    assert len(warned) == 1
    assert "molecules.xyz, record 0: " in str(warned[0].message)
    assert "other.xyz, record 3: " in str(warned[0].message)
    assert len(data) == 6


def test_truncated_trajectory(tmp_path: Path) -> None:
    """ASE's index of it is then somewhere else: the file is named, and other files are read."""
    path, whole = tmp_path / "cut.traj", tmp_path / "whole.traj"
    write(whole, molecules())
    path.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"cut\.traj"):
        load_structures(path, CUTOFF)
    with pytest.warns(UserWarning, match=r"cut\.traj"):
        data = load_structures([path, whole], CUTOFF, on_error="skip")
    assert len(data) >= 4


def test_bad_frame_of_a_trajectory(tmp_path: Path) -> None:
    path = tmp_path / "bad.traj"
    with TrajectoryWriter(path) as trajectory:
        for seed, atoms in enumerate(molecules()):
            if seed == 2:
                atoms.positions[0, 0] = np.inf
                atoms.calc = None
            trajectory.write(atoms)
    with pytest.raises(ValueError, match=r"bad\.traj, record 2: positions: not finite"):
        load_structures(path, CUTOFF)


def test_bad_row_of_a_database(tmp_path: Path) -> None:
    """Rows count from 0 in the order of their ids, of which one is missing here."""
    import sqlite3

    path = tmp_path / "structures.db"
    with connect(path) as database:
        for atoms in molecules():
            database.write(atoms)
    with sqlite3.connect(path) as raw:
        raw.execute("update systems set positions = ? where id = 3", (b"damaged",))
    with connect(path) as database:
        del database[1]
    with pytest.raises(ValueError, match=r"structures\.db, record 1: "):
        load_structures(path, CUTOFF)
    with pytest.warns(UserWarning, match="record 1: "):
        assert len(load_structures(path, CUTOFF, on_error="skip")) == 2


@pytest.mark.parametrize("suffix", ["xyz", "traj", "db", "cif"])
def test_not_such_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise.{suffix}"
    path.write_bytes(bytes(range(1, 256)) * 4)
    with pytest.raises(ValueError, match=rf"noise\.{suffix}"):
        load_structures(path, CUTOFF)
    with pytest.warns(UserWarning, match=rf"noise\.{suffix}"), pytest.raises(ValueError, match="no structure in"):
        load_structures(path, CUTOFF, on_error="skip")


@pytest.mark.unchecked
def test_what_a_caller_may_ask(tmp_path: Path, file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_structures(tmp_path / "absent.xyz", CUTOFF, on_error="skip")
    with pytest.raises(ValueError, match="on_error must be"):
        load_structures(file, CUTOFF, on_error="ignore")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="cutoff must be"):
        load_structures(file, 0.0)
    with pytest.raises(ValueError, match="max_neighbors must be"):
        load_structures(file, CUTOFF, max_neighbors=0)
    with pytest.raises(ValueError, match="empty list of files"):
        load_structures([], CUTOFF)


def test_without_ase(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(ImportError, match=r'pip install "equiformer-pytorch\[atoms\]"'):
        load_structures(file, CUTOFF, on_error="skip")


# ---- batches


def test_collate(tmp_path: Path) -> None:
    path = tmp_path / "crystals.xyz"
    write(path, crystals(), format="extxyz")
    items = load_structures(path, CUTOFF).items
    batch = collate_structures(items)
    assert batch["batch"].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch["cell"].shape == (2, 3, 3)
    assert batch["pbc"].tolist() == [[True] * 3, [True, True, False]]
    assert batch["energy"].shape == (2,)
    assert batch["stress"].shape == (2, 3, 3)
    assert batch["forces"].shape == batch["pos"].shape == (6, 3)
    second = batch["batch"][batch["edge_index"][0]] == 1
    assert torch.equal(batch["edge_index"][:, second] - 2, items[1]["edge_index"])
    assert torch.equal(batch["cell_offsets"][second], items[1]["cell_offsets"])
    assert torch.equal(batch["batch"][batch["edge_index"][0]], batch["batch"][batch["edge_index"][1]])


def test_labels_that_some_have(tmp_path: Path) -> None:
    path = tmp_path / "mixed.xyz"
    only_forces = labelled(molecule("NH3"), 5)
    del only_forces.calc.results["energy"]
    write(path, [molecules()[0], molecule("N2"), crystals()[0], only_forces], format="extxyz")
    items = load_structures(path, CUTOFF).items
    batch = collate_structures(items)
    assert batch["has_energy"].tolist() == [True, False, True, False]
    assert batch["has_forces"].tolist() == [True, False, True, True]
    assert batch["has_stress"].tolist() == [False, False, True, False]
    assert batch["energy"].tolist() == [items[0]["energy"], 0, items[2]["energy"], 0]
    assert batch["forces"].shape == batch["pos"].shape
    assert (batch["forces"][batch["batch"] == 1] == 0).all()
    assert torch.equal(batch["forces"][batch["batch"] == 3], items[3]["forces"])
    assert torch.equal(batch["stress"], torch.stack([torch.zeros(3, 3)] * 2 + [items[2]["stress"], torch.zeros(3, 3)]))
    assert not {"energy", "has_energy"} & collate_structures([items[1]]).keys()
    with pytest.raises(ValueError, match="at least one structure"):
        collate_structures([])
    with pytest.raises(ValueError, match=r"structure 1 of the batch \(2 structures\) has no weight"):
        collate_structures([items[0] | {"weight": torch.tensor(1.0)}, items[1]])


def test_in_a_loader(file: Path) -> None:
    data = load_structures(file, CUTOFF)
    assert isinstance(data, StructureDataset)
    batches = list(DataLoader(data, batch_size=3, collate_fn=collate_structures))
    assert [int(batch["batch"].max()) + 1 for batch in batches] == [3, 1]
    assert [len(batch["pos"]) for batch in batches] == [3 + 6 + 4, 12]


def test_graphs_are_made_once(file: Path) -> None:
    data = load_structures(file, CUTOFF)
    assert data[0]["edge_index"] is data[0]["edge_index"]


def test_reading_is_quiet(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_structures(file, CUTOFF)
    assert len(read(file, ":")) == 4
