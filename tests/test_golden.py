"""What release 1.2.0 gave: the same weights by the same names give the same numbers, and files of it can be read."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from equiformer_pytorch import EquiformerPotential, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms import load_potential
from tests import tolerances
from tests.golden import CLASSES, PICKLED, RUN, SAVED, build, deviation, deviations, evaluate, read_golden, unpack_state

CASES = read_golden()
FILES = sorted(path.stem for path in SAVED.glob("*.pt"))
PICKLES = sorted(path.stem for path in PICKLED.glob("*.pt"))


def assert_same(found: dict[str, float]) -> None:
    worst = sorted(found.items(), key=lambda item: -item[1])
    wrong = [f"{name} by {share:.1e}" for name, share in worst if not share <= tolerances.GOLDEN]
    assert not wrong, f"{len(wrong)} of {len(found)} deviate: {'; '.join(wrong[:8])}"


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes(name: str) -> None:
    """Of the state dict, in order."""
    case = CASES[name]
    state = CLASSES[case["kind"]](**case["config"]).state_dict()
    was = dict(zip(case["state"]["names"], case["state"]["shapes"], strict=True))
    assert {key: list(value.shape) for key, value in state.items()} == was
    assert list(state) == case["state"]["names"]


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    case = CASES[name]
    assert_same(deviations(evaluate(case["kind"], build(case), case["inputs"]), case))


@pytest.mark.parametrize("name", FILES)
def test_saved_files(name: str) -> None:
    case = CASES[name]
    of_class = {"potential": EquiformerPotential, "v2": EquiformerV2, "v3": EquiformerV3}[case["kind"]]
    for load in (load_potential, of_class.from_checkpoint):
        model: Any = load(SAVED / f"{name}.pt")
        assert type(model) is of_class
        state = model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in unpack_state(case["state"]).items())
        assert_same(deviations(evaluate(case["kind"], model, case["inputs"]), case))
        if of_class is not EquiformerPotential:
            predicted = model.predict(**case["inputs"])
            assert predicted.keys() == case["predicted"].keys()
            assert_same({key: deviation(predicted[key].detach(), x) for key, x in case["predicted"].items()})


@pytest.mark.parametrize("name", PICKLES)
def test_pickled_modules(name: str) -> None:
    case = CASES[name]
    with pytest.warns(DeprecationWarning, match="pickled as a whole by release 1.2"):
        model = torch.load(PICKLED / f"{name}.pt", weights_only=False)
    assert type(model) is CLASSES[case["kind"]]
    assert not model.training
    assert_same(deviations(evaluate(case["kind"], model, case["inputs"]), case))


def metrics_of(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if value and key != "seconds"} for row in rows]


def test_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the training program that was stopped after its first step, in single precision."""
    pytest.importorskip("accelerate", reason="needs the extra examples")
    pytest.importorskip("ase", reason="needs the extra atoms")
    from tests.potential_program import call, make_data

    monkeypatch.chdir(tmp_path)
    folder = Path("runs", "parts")
    Path("data").mkdir()
    make_data(Path("data"))
    folder.mkdir(parents=True)
    for name in ("checkpoint.pt", "metrics.csv"):
        shutil.copy(RUN / name, folder)
    assert call("--resume", "parts") == 0
    rows, wanted = metrics_of(folder / "metrics.csv"), metrics_of(RUN / "whole.csv")
    assert len(rows) == len(wanted) == 6
    for row, was in zip(rows, wanted, strict=True):
        assert row == pytest.approx(was, rel=tolerances.GOLDEN_TRAINING)
