"""What the sides of ``benchmarks/qm9.py`` are given, how they are judged, and that ours learns from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra atoms")

from benchmarks import qm9, qm9_learner, qm9_report
from benchmarks.kept import KeptRuns
from benchmarks.process import Place
from benchmarks.qm9_sides import SIDES, gathered
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
    job = qm9.asked_of("ours, MLP", tmp_path / "some.pt", 1e-3, 0)
    qm9_learner.learn(job | {"steps": 5, "points": 2})
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [first["steps"], last["steps"]] == [3, 5]
    assert "test" not in first
    assert len(last["test"]) == 1


def test_pace_is_of_the_steps_that_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by 0.25 s with each step."""
    qm9.write_molecules(data.read(FOLDER), "u0", 30, (10, 5), 2.0, tmp_path / "some.pt")
    now = 0.0

    def step(self: qm9_learner.Learner, share: float) -> float:
        nonlocal now
        now += 0.25
        return 0.0

    monkeypatch.setattr(qm9_learner.Learner, "step", step)
    monkeypatch.setattr(qm9_learner.time, "process_time", lambda: now)
    qm9_learner.pace(qm9.asked_of("ours, MLP", tmp_path / "some.pt", 1e-3, 0) | {"pace": 0.6})
    assert json.loads(capsys.readouterr().out) == {"seconds": 0.25, "steps": 3}


class Canned:
    """A place that answers as a side would, whose error falls with its learning rate and its steps."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, python: Path, path: Path | None, packages: tuple[str, ...]) -> None:
        pass

    def versions(self) -> dict[str, str]:
        return {"torch": "2"}

    def run(self, *words: str) -> SimpleNamespace:
        job = json.loads(words[-1])
        self.asked.append(job)
        if "pace" in job:
            found = {"seconds": {"ours": 0.5, "painn": 0.25}[job["side"]], "steps": 3}
        else:
            error = [1 / (job["settings"]["lr"] * job["steps"]) + job["seed"]]
            found = {"steps": job["steps"], "train": 0.0, "parameters": 1, "valid": error, "test": error}
        return SimpleNamespace(returncode=0, stdout=json.dumps(found))


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Paces in turns, a rate for each side, all seeds with it; nothing twice; another length has its own rate."""
    monkeypatch.setattr(qm9, "Place", Canned)
    monkeypatch.setattr(qm9, "write_molecules", lambda *words: torch.save({"scale": 1.0}, words[-1]))
    monkeypatch.setattr(Canned, "asked", [])
    words = ["--data", str(FOLDER), "--kept", str(tmp_path / "read.pt"), "--out", str(tmp_path / "out")]
    words += ["--painn-python", "python", "--sides", "ours, MLP", "PaiNN", "--properties", "u0", "alpha"]
    words += ["--train", "30", "--seeds", "2", "--rates", "1e-3", "2e-3"]
    qm9.main([*words, "--budget", "10"])
    steps = {(job["side"], job["steps"]) for job in Canned.asked if "steps" in job}
    assert steps == {("ours", 20), ("painn", 40)}
    # For each side paces, a sweep, and two properties with two seeds, of which the sweep has one.
    assert len(Canned.asked) == 2 * (qm9.ROUNDS + 2 + 3)
    first = capsys.readouterr().out
    qm9.main([*words, "--budget", "10"])
    assert len(Canned.asked) == 2 * (qm9.ROUNDS + 2 + 3)
    assert capsys.readouterr().out.splitlines()[-4:] == first.splitlines()[-4:]
    assert first.count("| 0.002 |") == 4
    assert "0.001 |" not in first
    qm9.main([*words, "--budget", "20"])
    assert len(Canned.asked) == 2 * (qm9.ROUNDS + 2 * 5)
    assert json.loads((tmp_path / "out" / "qm9.json").read_text())["runs"][0]["pace"] == "numbers"


def test_paces_are_of_one_time(tmp_path: Path) -> None:
    """Each side in turn, the median; a side that was not measured then is refused by name."""
    asked = []

    class Stopwatch:
        def __init__(self, seconds: list[float]) -> None:
            self.seconds = iter(seconds)

        def run(self, *words: str) -> SimpleNamespace:
            asked.append(json.loads(words[-1])["side"])
            return SimpleNamespace(returncode=0, stdout=json.dumps({"seconds": next(self.seconds), "steps": 1}))

        def versions(self) -> dict[str, str]:
            return {"torch": "2"}

    kept = KeptRuns(tmp_path / "qm9.json")
    places: Any = {"ours, MLP": Stopwatch([1, 2, 9, 3, 4]), "PaiNN": Stopwatch([5, 5, 1, 1, 7])}
    files = dict.fromkeys(places, tmp_path / "some.pt")
    found = qm9.paces(kept, "numbers", files, places, 1.0)
    assert found == {"ours, MLP": 3, "PaiNN": 5}
    assert asked == ["ours", "painn"] * qm9.ROUNDS
    assert qm9.paces(kept, "numbers", files, places, 1.0) == found
    assert len(asked) == 2 * qm9.ROUNDS
    with pytest.raises(SystemExit, match="without that of MACE"):
        qm9.paces(kept, "numbers", files | {"MACE": tmp_path / "some.pt"}, places, 1.0)


# Asks for modules as the official Equiformer does; of an atom it gives the radial functions of all its edges, summed.
CHECKOUT = """
import torch
import torch_geometric
from ocpmodels.models.gemnet.layers.radial_basis import RadialBasis
from torch_cluster import radius_graph
from torch_geometric.nn import global_max_pool, global_mean_pool
from torch_scatter import scatter


class Network(torch.nn.Module):
    def __init__(self, irreps_in, radius, num_basis):
        super().__init__()
        assert irreps_in == "5x0e"
        self.radius, self.rbf = radius, RadialBasis(num_basis, cutoff=radius, rbf={"name": "spherical_bessel"})

    def forward(self, f_in, pos, batch, node_atom):
        senders, receivers = radius_graph(pos, r=self.radius, batch=batch, max_num_neighbors=1000)
        found = self.rbf((pos[senders] - pos[receivers]).norm(dim=1)).sum(1, keepdim=True)
        return self.scale_scatter(scatter(found, receivers, dim=0, dim_size=len(pos)), batch, dim=0)
"""
FORWARD = """
import sys, torch
from benchmarks.qm9_learner import collate
from benchmarks.qm9_sides import SIDES
for name in sys.argv[1:]:
    data = torch.load(name, weights_only=True)
    model = SIDES["official"](data, {"name": "Network", "num_basis": 3})
    torch.save(model(collate(data, data["valid"][:3])).detach(), f"{name}.found")
"""


@pytest.mark.slow
def test_the_official_network_gets_the_edges_and_its_atoms_are_gathered(tmp_path: Path) -> None:
    pytest.importorskip("e3nn", reason="needs the extra test")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("raise ImportError('of other models')")
    (tmp_path / "nets" / "graph_attention_transformer.py").write_text(CHECKOUT)
    cutoff, files = 2.0, [tmp_path / "u0.pt", tmp_path / "homo.pt"]
    for file in files:
        qm9.write_molecules(data.read(FOLDER), file.stem, 30, (10, 5), cutoff, file)
    done = Place(Path(sys.executable), tmp_path, ()).run("-c", FORWARD, *map(str, files))
    assert done.returncode == 0, done.stderr
    for file, kind in zip(files, ("sum", "mean"), strict=True):
        content = torch.load(file, weights_only=True)
        batch = qm9_learner.collate(content, content["valid"][:3])
        distance = torch.cdist(batch["pos"], batch["pos"], compute_mode="donot_use_mm_for_euclid_dist")[..., None]
        near = (distance < cutoff) & (batch["batch"][:, None] == batch["batch"])[..., None] & (distance > 0)
        x = distance / cutoff
        waves = (torch.arange(1, 4) * torch.pi * x).sin() / distance * (2 / cutoff) ** 0.5
        of_atoms = torch.where(near, waves * (1 - 21 * x**5 + 35 * x**6 - 15 * x**7), 0).sum((1, 2))
        found = torch.load(f"{file}.found", weights_only=True)
        torch.testing.assert_close(found, gathered(of_atoms[:, None], batch, kind), atol=1e-4, rtol=1e-4)


def test_sides_are_there_or_their_place_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert {settings["side"] for settings in qm9.SETTINGS.values()} == set(SIDES)
    assert set(qm9.LEFT_OUT) < set(qm9.SETTINGS)
    for words, message in (
        (["--sides", "Equiformer"], "where is Equiformer?"),
        (["--official", "checkout"], "--official and --official-python go together"),
    ):
        with pytest.raises(SystemExit):
            qm9.main(words)
        assert message in capsys.readouterr().err


def test_table() -> None:
    curve = [{"steps": 7, "valid": [0.5], "test": [0.25, 0.75]}]
    run = {"name": "ours", "property": "u0", "train": 30, "budget": 3.0, "lr": 1e-3, "steps": 7, "scale": 0.1}
    text = qm9_report.report([run | {"curve": curve}, run | {"curve": curve, "scale": 0.3}])
    assert text.splitlines()[-1] == "| u0 / meV | 30, 3 s | ours | 0.001 | 7 | 100 | 50, 150 |"
