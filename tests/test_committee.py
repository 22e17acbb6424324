"""`equiformer evaluate --committee`: potentials that were trained apart, and whether their spread tells the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ase", reason="needs the extra train")

import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equiformer_pytorch.atoms import EquiformerCalculator, EquiformerPotential
from equiformer_pytorch.atoms.committee import mean_and_spread
from equiformer_pytorch.cli.main import main
from equiformer_pytorch.training.potentials.errors import Compared
from tests.potential_program import frames_of
from tests.programs import exit_code


def member(path: Path, seed: int, **more: Any) -> Path:
    """A potential of weights drawn with a seed."""
    torch.manual_seed(seed)
    EquiformerPotential(species=[1, 6, 8, 13], dim=4, depth=1, heads=1, dim_head=4, **more).save(path)
    return path


def frames() -> list[Atoms]:
    """Molecules that say what they are, and a crystal, with labels from nowhere."""
    rng = np.random.default_rng(0)
    found = []
    for name in ("H2O", "CH4", "CO2", "H2O", "CH4", "CO2"):
        atoms = molecule(name)
        atoms.info["name"] = name
        found.append(atoms)
    found.append(bulk("Al", cubic=True))
    for atoms in found:
        atoms.rattle(0.03, rng=rng)
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    return found


def evaluate(*arguments: object) -> int:
    return exit_code(main, ("evaluate", *arguments))


def test_a_committee_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mean and spread as the calculator has them, in the file of predictions, the figures and the tables."""
    files = [member(tmp_path / f"{seed}.pt", seed) for seed in range(3)]
    write(tmp_path / "all.xyz", frames(), format="extxyz")
    options = ("--committee", *files[1:], "--group", "name", "--batch-size", 3, "--out", tmp_path / "out")
    assert evaluate(files[0], tmp_path / "all.xyz", *options) == 0
    printed = capsys.readouterr().out
    assert "mean of a committee of 3" in printed
    assert "spread" in printed
    assert (tmp_path / "out" / "spread.png").read_bytes().startswith(b"\x89PNG")

    calculator: Any = EquiformerCalculator(files)
    off: dict[str, list[np.ndarray]] = {"energy": [], "forces": []}
    spread: dict[str, list[np.ndarray]] = {"energy": [], "forces": []}
    predicted = frames_of(tmp_path / "out" / "predictions.xyz")
    for atoms, new in zip(frames(), predicted, strict=True):
        results: dict[str, Any] = {
            name: calculator.get_property(name, atoms) for name in ("energy", "forces", "energy_std", "forces_std")
        }
        for name in ("energy", "energy_std"):
            assert new.info[f"predicted_{name}"] == pytest.approx(results[name], abs=1e-5)
        for name in ("forces", "forces_std"):
            np.testing.assert_allclose(new.arrays[f"predicted_{name}"], results[name], atol=1e-5)
        assert ("predicted_stress_std" in new.info) == (new.cell.rank == 3)
        off["energy"].append(np.array([results["energy"] - atoms.get_potential_energy()]) / len(atoms))
        spread["energy"].append(np.array([results["energy_std"]]) / len(atoms))
        off["forces"].append(results["forces"] - atoms.get_forces())
        spread["forces"].append(results["forces_std"])
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())["all"]["all"]
    for name, found in figures.items():
        errors, spreads = (np.concatenate(x) for x in (off[name], spread[name]))
        assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
        assert found["spread"] == pytest.approx(np.sqrt((spreads**2).mean()), rel=1e-4)
        assert -1 <= found["rank_correlation"] <= 1
    assert set(figures) == {"energy", "forces"}


def test_one_potential_has_no_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = member(tmp_path / "one.pt", 0)
    write(tmp_path / "all.xyz", frames(), format="extxyz")
    assert evaluate(file, tmp_path / "all.xyz", "--out", tmp_path / "out") == 0
    assert "spread" not in capsys.readouterr().out
    assert not (tmp_path / "out" / "spread.png").exists()
    assert "predicted_energy_std" not in frames_of(tmp_path / "out" / "predictions.xyz")[0].info


@pytest.mark.parametrize(
    ("more", "said"), [({"cutoff": 4.0}, "has cutoff 4.0"), ({"max_neighbors": 3}, "has max_neighbors 3")]
)
def test_members_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, object], said: str
) -> None:
    first, second = member(tmp_path / "first.pt", 0), member(tmp_path / "second.pt", 1, **more)
    write(tmp_path / "all.xyz", frames(), format="extxyz")
    assert evaluate(first, tmp_path / "all.xyz", "--committee", second, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(second) in error
    assert not (tmp_path / "out").exists()


def test_rank_correlation() -> None:
    """Of rows, whatever the scale of the spread; torch.corrcoef of ranks by hand."""
    true, size = torch.zeros(4, 3, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    rows = torch.arange(4)
    in_order = Compared(size[:, None].expand(4, 3), true, rows, rows, (size**2)[:, None].expand(4, 3))
    assert in_order.rank_correlation == pytest.approx(1.0)
    swapped = size[[1, 0, 2, 3]][:, None].expand(4, 3)
    assert Compared(size[:, None].expand(4, 3), true, rows, rows, swapped).rank_correlation == pytest.approx(0.8)
    assert in_order.only(rows < 2).rank_correlation is None
    assert Compared(true, true, rows, rows).rank_correlation is None


def test_mean_and_spread_of_what_all_give() -> None:
    one, two = {"energy": torch.tensor([1.0]), "dipole": torch.ones(1, 3)}, {"energy": torch.tensor([2.0])}
    found = mean_and_spread([one, two])
    assert set(found) == {"energy", "energy_std"}
    assert found["energy"].item() == 1.5
    assert found["energy_std"].item() == pytest.approx(0.5**0.5)
    assert set(mean_and_spread([one])) == {"energy", "dipole"}
