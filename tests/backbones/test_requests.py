"""What is asked of the generator: motifs in their places, structure, variations; and what does not fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("gemmi", reason="needs the extra backbones")

from examples.backbones.geometry import frames_of
from examples.backbones.network import OPEN
from examples.backbones.requests import RequestError, tasks_of
from examples.backbones.settings import SampleSettings
from examples.backbones.structures import StructureError, pdb_text
from tests.backbones.models import some_chains


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A chain of 30 residues."""
    path = tmp_path / "chain.pdb"
    path.write_text(pdb_text([some_chains(1, 30)[0].coords]))
    return path


def settings(**given: object) -> SampleSettings:
    return replace(SampleSettings(), **{name: str(x) if isinstance(x, Path) else x for name, x in given.items()})


def test_lengths_and_seeds() -> None:
    tasks = tasks_of(settings(lengths=(20, 30), count=3, seed=7))
    assert [(task.length, task.seed) for task in tasks] == [(n, s) for n in (20, 30) for s in (7, 8, 9)]


def test_a_motif_keeps_its_distances_and_is_in_the_middle(file: Path) -> None:
    (task,) = tasks_of(settings(motif=file, residues=("3-6", "10-14"), lengths=(40,), count=1))
    assert task.known is not None
    assert task.frames is not None
    places = task.known.nonzero()[:, 0].tolist()
    assert places == [14, 15, 16, 17, 21, 22, 23, 24, 25]  # the twelve from 3 to 14, in the middle of 40
    coords = some_chains(1, 30)[0].coords
    wanted = frames_of(coords[[2, 3, 4, 5, 9, 10, 11, 12, 13]])
    torch.testing.assert_close(task.frames.origin[task.known], wanted.origin, atol=2e-3, rtol=0)
    torch.testing.assert_close(task.frames.rotation[task.known], wanted.rotation, atol=5e-3, rtol=0)


def test_a_motif_goes_where_it_is_asked_to(file: Path) -> None:
    (task,) = tasks_of(settings(motif=file, residues=("3-6", "10-14"), at=(1, 30), lengths=(40,), count=1))
    assert task.known is not None
    assert task.known.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 29, 30, 31, 32, 33]


def test_structure() -> None:
    (task,) = tasks_of(settings(structure="HHE.C", count=1))
    assert task.structure is not None
    assert task.structure.tolist() == [0, 0, 1, OPEN, 2]
    assert task.length == 5


def test_variations(file: Path) -> None:
    tasks = tasks_of(settings(vary=file, noise=2.0, count=2))
    assert [task.length for task in tasks] == [30, 30]
    assert all(task.start == 2.0 and task.known is None for task in tasks)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"residues": ("1-3",)}, "--residues and --at say what of a --motif"),
        ({"structure": "HHX"}, "the letters X"),
        ({"structure": "HH"}, "--structure HH is of 2 residues, 3 are the least"),
        ({"motif": "FILE", "residues": ("1-99",), "lengths": (40,)}, "within the 30 residues"),
        ({"motif": "FILE", "residues": ("9-3",), "lengths": (40,)}, "FIRST-LAST"),
        ({"motif": "FILE", "residues": ("ten",), "lengths": (40,)}, "FIRST-LAST"),
        ({"motif": "FILE", "residues": ("5-9", "8-12"), "lengths": (40,)}, "ascend"),
        ({"motif": "FILE", "lengths": (20,)}, "spans 30 residues, the backbone has 20"),
        ({"motif": "FILE", "lengths": (30,)}, "nothing is left"),
        ({"motif": "FILE", "residues": ("1-9",), "at": (38,), "lengths": (40,)}, "does not fit"),
        ({"motif": "FILE", "residues": ("1-9", "12-14"), "at": (1, 5), "lengths": (40,)}, "does not fit"),
        ({"motif": "FILE", "residues": ("1-9",), "at": (1, 2), "lengths": (40,)}, "one each"),
        ({"vary": "FILE", "structure": "HH"}, "leave out --structure"),
    ],
)
def test_what_does_not_fit(file: Path, given: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        tasks_of(settings(**{name: file if value == "FILE" else value for name, value in given.items()}))


def test_files_with_gaps_or_two_chains(tmp_path: Path) -> None:
    coords = some_chains(1, 30)[0].coords
    gap = tmp_path / "gap.pdb"
    gap.write_text(pdb_text([torch.cat((coords[:10], coords[14:]))]))
    with pytest.raises(StructureError, match="gap"):
        tasks_of(settings(vary=gap))
    lines = pdb_text([coords]).splitlines()[:-1]
    two = tmp_path / "two.pdb"
    second = [f"{line[:21]}B{line[22:]}" for line in pdb_text([coords + 50]).splitlines()[1:]]
    two.write_text("\n".join(lines + second) + "\n")
    with pytest.raises(StructureError, match="2 chains"):
        tasks_of(settings(vary=two))
    (task,) = tasks_of(settings(vary=two, chain="B", count=1))
    assert task.frames is not None
    assert float(task.frames.origin[0, 0]) == pytest.approx(float(coords[0, 1, 0]) + 50, abs=2e-3)
