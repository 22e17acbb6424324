"""That ``benchmarks/forces.py`` trains, keeps what it found, and makes no run twice."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra atoms")

from benchmarks import forces

RUNS = [
    {"side": side, "molecule": "water", "trajectory": 3, "budget": 620.0, "seed": seed, "found": found}
    for side, seed, found in (
        ("ours", 0, {"force_rmse": 50.0, "energy_rmse": 1.0}),
        ("ours", 1, {"force_rmse": 60.0, "energy_rmse": 3.0}),
        ("MACE", 0, {"force_rmse": 80.04, "energy_rmse": 2.744}),
    )
]


def test_the_table_has_the_mean_and_each_seed() -> None:
    _, _, ours, mace = forces.report(RUNS).splitlines()
    assert ours == "| water 3 | ours | 620 | 55 | 50, 60 | 2 | 1, 3 |"
    assert mace == "| water 3 | MACE | 620 | 80 | 80 | 2.74 | 2.74 |"


def test_sets_that_judge_are_not_those_that_settings_were_chosen_on() -> None:
    assert not set(forces.JUDGED_ON) & set(forces.CHOSEN_ON)


@pytest.mark.skipif(find_spec("tblite") is None, reason="needs the extra xtb")
def test_a_run_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--smoke", "--chosen", "--only", "1", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    forces.main(command)
    assert "ours, vanillin 0, seed 0: forces, meV/Å" in capsys.readouterr().out
    kept = tmp_path / "out" / "forces.json"
    (run,) = json.loads(kept.read_text())["runs"]
    assert run["found"]["cpu_seconds"] >= run["budget"] == 1.0
    assert run["settings"]["model"]
    assert "torch" in run["versions"]
    before = kept.stat().st_mtime_ns
    forces.main(command)
    assert kept.stat().st_mtime_ns == before
    assert "| vanillin 0 | ours | 1 |" in capsys.readouterr().out


def test_a_side_without_its_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        forces.main(["--sides", "NequIP"])
    assert "where is NequIP? name its environment" in capsys.readouterr().err
