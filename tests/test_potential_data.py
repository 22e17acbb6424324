"""The data sets of `examples.potential`: splits, labels, and a cache that is whole or absent."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("ase", reason="needs the extra atoms")

import numpy as np

from examples.potential import data
from tests.potential_program import frames_of

SIZES = data.Sizes(2, 1, 1)
SHORT = data.Dynamics(equilibrate=2.0, every=1.0, gap=2.0)

needs_tblite = pytest.mark.skipif(find_spec("tblite") is None, reason="needs the extra xtb")


def tiny_g2(folder: Path, **changes: object) -> dict[str, Path]:
    chosen = {"small": SIZES, "large": SIZES, "dynamics": SHORT, "names": ["H2O", "OCS", "CH4"], **changes}
    return data.g2(folder, **chosen)  # pyright: ignore[reportArgumentType]


def test_molecules() -> None:
    small, large = data.small_molecules(), data.large_molecules()
    assert (len(small), len(large)) == (106, 10)
    assert set(data.MADE_HERE) == {"g2", *large}
    assert set(data.HELD_OUT) <= {*small, *large}
    assert len(large["aspirin"]) == 21
    for name, atoms in (*small.items(), *large.items()):
        assert atoms.info["name"] == name
        assert atoms.numbers.sum() % 2 == 0
        assert set(atoms.symbols) <= data.ELEMENTS
    assert not {"NO", "O2", "CH3", "LiH"} & small.keys()
    seen = {name: set(atoms.symbols) for name, atoms in (*small.items(), *large.items())}
    assert set.union(*(s for name, s in seen.items() if name not in data.HELD_OUT)) == data.ELEMENTS


@needs_tblite
def test_forces_are_the_gradient_of_the_energy() -> None:
    atoms = data.small_molecules()["H2O"]
    atoms.calc = data.gfn2()
    atoms.rattle(0.05, seed=0)
    forces = atoms.get_forces()
    step = 1e-3
    for atom, axis in ((0, 2), (1, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = data.gfn2()
            moved.positions[atom, axis] += sign * step
            energies.append(moved.get_potential_energy())
        assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(forces[atom, axis], abs=1e-3)


@needs_tblite
def test_splits_and_their_labels(tmp_path: Path) -> None:
    files = tiny_g2(tmp_path / "data" / "g2")
    names = {split: sorted(atoms.info["name"] for atoms in frames_of(path)) for split, path in files.items()}
    assert names == {
        "train": ["CH4", "CH4", "H2O", "H2O"],
        "valid": ["CH4", "H2O"],
        "test": ["CH4", "H2O"],
        "test_molecules": ["OCS"] * 4,
    }
    assert [atoms.info["kind"] for atoms in frames_of(files["train"])] == ["thermal", "rattled"] * 2
    for path in files.values():
        for atoms in frames_of(path):
            forces, energy = atoms.get_forces(), atoms.get_potential_energy()
            atoms.calc = data.gfn2()
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-3)
            np.testing.assert_allclose(atoms.positions.mean(0), 0, atol=1e-7)


@needs_tblite
def test_seed_decides(tmp_path: Path) -> None:
    first, same, other = (
        np.concatenate([atoms.positions for atoms in frames_of(tiny_g2(tmp_path / name, seed=seed)["train"])])
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    np.testing.assert_allclose(first, same, atol=1e-5)
    assert np.abs(first - other).max() > 1e-3


@needs_tblite
def test_aspirin_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "aspirin"
    files = data.aspirin(folder, sizes=SIZES, dynamics=SHORT)
    times = {split: path.stat().st_mtime_ns for split, path in files.items()}
    assert {split: len(frames_of(path)) for split, path in files.items()} == vars(SIZES)
    assert data.aspirin(folder, sizes=SIZES, dynamics=SHORT) == files
    assert {split: path.stat().st_mtime_ns for split, path in files.items()} == times
    with pytest.raises(data.DataError, match="made in another way"):
        data.aspirin(folder, sizes=SIZES, dynamics=SHORT, seed=1)
    assert "2 geometries of 1 molecules, 42 atoms" in data.describe(files["train"])


@needs_tblite
@pytest.mark.parametrize("error", [KeyboardInterrupt, data.CalculationFailed])
def test_nothing_is_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    def fail(*_: object) -> None:
        raise error("now")

    monkeypatch.setattr(data, "rattled", fail)
    with pytest.raises(data.DataError if error is data.CalculationFailed else KeyboardInterrupt):
        tiny_g2(tmp_path / "g2")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(data.DataError, match="not a data set of this program"):
        data.aspirin(tmp_path / "mine")
    assert data.main(["g2", str(tmp_path / "mine")]) == 2
    assert "not a data set of this program" in capsys.readouterr().err
    assert list((tmp_path / "mine").iterdir()) == []


def test_unknown_molecule(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="unobtainium"):
        tiny_g2(tmp_path / "g2", names=["H2O", "unobtainium"])


def test_without_tblite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(data.DataError, match=r"equiformer-pytorch\[examples,xtb\]"):
        data.aspirin(tmp_path / "aspirin")
    assert list(tmp_path.iterdir()) == []
