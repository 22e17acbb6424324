"""What the sides of ``benchmarks/qm9.py`` are given, how they are judged, and that ours learns from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra atoms")

from benchmarks import qm9, qm9_learner, qm9_report
from examples.qm9 import data

FOLDER = Path(data.__file__).resolve().parents[2] / "data" / "qm9"


@pytest.mark.parametrize("name", ["u0", "homo", "tensor"])
def test_molecules_of_all_sides(name: str, tmp_path: Path) -> None:
    molecules, cutoff = data.read(FOLDER), 2.0
    qm9.write_molecules(molecules, name, 30, (10, 5), cutoff, tmp_path / "some.pt")
    content = torch.load(tmp_path / "some.pt", weights_only=True)
    split = data.split(len(molecules), 30, 0)
    assert [len(content[part]) for part in ("train", "valid", "test")] == [30, 10, 5]
    batch = qm9_learner.collate(content, content["valid"][:3])
    wanted = [molecules.numbers[molecules.atoms(place)] for place in split.valid[:3]]
    assert batch["numbers"].tolist() == torch.cat(wanted).tolist()
    senders, receivers = batch["edge_index"]
    distance = torch.cdist(batch["pos"], batch["pos"])
    near = (distance < cutoff) & (batch["batch"][:, None] == batch["batch"]) & ~torch.eye(len(distance)).bool()
    found = torch.zeros_like(near)
    found[senders, receivers] = True
    assert (found == near).all()
    train = content["target"][content["train"]]
    assert train.square().mean() == pytest.approx(1, rel=1e-5)
    assert train.shape == ((30, 4, 9) if name == "tensor" else (30, 1))
    if name == "homo":  # all but the mean is to be learned
        values = molecules.values(name)[split.train] - molecules.values(name)[split.train].mean()
        torch.testing.assert_close(train.double() * content["scale"], values, atol=1e-5, rtol=1e-5)


def test_the_nearest_candidate_is_wanted() -> None:
    found = torch.tensor([[1.0, 0.0]])
    assert qm9_learner.wanted(found, torch.tensor([[[4.0, 4.0], [1.0, 1.0]]])).tolist() == [[1.0, 1.0]]
    assert qm9_learner.wanted(found, torch.tensor([[4.0, 4.0]])).tolist() == [[4.0, 4.0]]


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    shares = [qm9_learner.share(progress, 0.1) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert shares == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_ours_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qm9.write_molecules(data.read(FOLDER), "u0", 30, (10, 5), 2.0, tmp_path / "some.pt")
    settings = qm9.SETTINGS["ours, MLP"] | {"lr": 1e-3}
    job = {"data": str(tmp_path / "some.pt"), "side": "ours", "settings": settings, "seed": 0, "budget": 0.3}
    qm9_learner.learn(job | {"points": 2, "test": True})
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["steps"] < last["steps"]
    assert last["seconds"] >= 0.3
    assert "test" not in first
    assert len(last["test"]) == 1


def test_table() -> None:
    curve = [{"steps": 7, "seconds": 3.0, "valid": [0.5], "test": [0.25, 0.75]}]
    run = {"name": "ours", "property": "u0", "train": 30, "budget": 3.0, "lr": 1e-3, "scale": 0.1, "curve": curve}
    text = qm9_report.report([run | {"test": True}, run | {"test": True, "scale": 0.3}, run | {"test": False}])
    assert text.splitlines()[-1] == "| u0 / meV | 30, 3 s | ours | 0.001 | 7 | 100 | 50, 150 |"
