"""QM9 as `examples.qm9` reads it, its splits, the frames of its tensors, and what is read out of a network."""

from __future__ import annotations

import ast
import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra atoms")

from equiformer_pytorch.testing import Role, assert_equivariant
from examples.qm9 import data, frames, run
from examples.qm9.model import TARGETS, MoleculeProperty, nearest
from examples.qm9.properties import COLUMNS, PROPERTIES, SPECIES, Kind
from tests import tolerances

FOLDER = Path(data.__file__).resolve().parents[2] / "data" / "qm9"
SMALL = {"cutoff": 3.0, "dim": 8, "num_degrees": 3, "depth": 1, "heads": 2, "dim_head": 4}
KINDS: dict[Kind, str] = {each.kind: name for name, each in PROPERTIES.items()}


@pytest.fixture(scope="module")
def molecules() -> data.Molecules:
    return data.read(FOLDER)


def test_molecules_are_those_of_the_files(molecules: data.Molecules) -> None:
    assert len(molecules) == 270
    rows = []
    for name in data.PARTS:
        with (FOLDER / name).open(newline="") as file:
            rows += list(csv.DictReader(file))
    for place in (0, 100, 269):
        row, atoms = rows[place], molecules.atoms(place)
        assert molecules.index[place] == int(row["Index"])
        symbols = ast.literal_eval(row["Elements"])
        assert molecules.numbers[atoms].tolist() == [data.SYMBOLS[symbol] for symbol in symbols]
        assert molecules.pos[atoms].tolist() == ast.literal_eval(row["XYZ_Ang"])
        assert molecules.values("mu")[place] == float(row["Dipole_debye"])
        assert molecules.values("homo")[place] == pytest.approx(float(row["HOMO_au"]) * 27.2114, rel=1e-6)
        assert molecules.composition()[place].tolist() == [
            sum(data.SYMBOLS[symbol] == z for symbol in symbols) for z in SPECIES
        ]


def test_properties_fit_together(molecules: data.Molecules) -> None:
    values = {name: molecules.values(name) for name in PROPERTIES}
    torch.testing.assert_close(values["gap"], values["lumo"] - values["homo"], atol=0.006, rtol=0)
    assert (values["u0"] < -5).all()  # molecules are bound
    assert (values["u"] < values["u0"]).all()  # atoms alone have no vibrations, but more of them move
    isotropic = values["tensor"][:, [0, 2, 5]].mean(1, keepdim=True)
    torch.testing.assert_close(isotropic, values["alpha"], atol=0.006, rtol=0)
    assert sum(len(each.columns) for each in PROPERTIES.values()) == len(COLUMNS)


def test_a_kept_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "installed", lambda: FOLDER)
    kept = tmp_path / "new" / "qm9.pt"
    first = data.load(None, kept)
    monkeypatch.setattr(data, "installed", lambda: tmp_path)
    again = data.load(None, kept)
    assert all(torch.equal(x, vars(again)[name]) for name, x in vars(first).items())
    kept.write_text("nothing")
    with pytest.raises(data.DataError, match=r"qm9.pt cannot be read"):
        data.load(None, kept)


def test_missing_and_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(data.DataError, match="has not the files of qm9pack"):
        data.read(tmp_path)
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(data.DataError, match="qm9pack is missing"):
        data.installed()
    shutil.copytree(FOLDER, tmp_path / "some")
    path = tmp_path / "some" / data.PARTS[1]
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace("C", "Zz", 1)
    path.write_text("".join(lines))
    with pytest.raises(data.DataError, match=r"qm9_part2.csv, line 4: KeyError\('Zz'\)"):
        data.read(tmp_path / "some")


def test_splits() -> None:
    small, large = data.split(130_831, 1000, 0), data.split(130_831, 110_000, 0)
    assert (len(large.train), len(large.valid), len(large.test)) == (110_000, 10_000, 10_831)
    assert sorted([*large.train, *large.valid, *large.test]) == list(range(130_831))
    assert (small.train, small.valid, small.test) == (large.train[:1000], large.valid, large.test)
    assert data.split(130_831, 1000, 1).train != small.train
    with pytest.raises(data.DataError, match="110000 molecules to train on, not 110001"):
        data.split(130_831, 110_001, 0)
    few = data.split(270, 200, 0)
    assert len({*few.train, *few.valid, *few.test}) == 200 + 27 + 27


def moved(molecules: data.Molecules, rotation: Tensor) -> data.Molecules:
    return data.Molecules(**{**vars(molecules), "pos": molecules.pos @ rotation.mT + 3.0})


def rotation() -> Tensor:
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return matrix * torch.linalg.det(matrix).sign()


def test_candidates_turn_with_the_molecule(molecules: data.Molecules) -> None:
    """As sets: which way an axis points may change."""
    turn, tensors = rotation(), molecules.values("tensor")
    before = frames.candidates(tensors, frames.charge_axes(molecules))
    after = frames.candidates(tensors, frames.charge_axes(moved(molecules, turn)))
    wanted = turn @ before @ turn.mT
    distance = (after[:, :, None] - wanted[:, None]).flatten(3).norm(dim=3)
    pos, charge = frames.charge_centred(molecules.numbers, molecules.pos, molecules.molecule(), len(molecules))
    moments = torch.zeros(len(molecules), 3, 3, dtype=torch.float64).index_add(
        0, molecules.molecule(), charge[:, None, None] * pos[:, :, None] * pos[:, None]
    )
    values = torch.linalg.eigvalsh(moments)
    apart = (values.diff(dim=1) > 1e-3 * values[:, 2:]).all(1)  # else there are no principal axes
    assert apart.double().mean() > 0.95
    assert distance.amin(2).amax(1)[apart].max() < 1e-6
    assert {len(each.flatten(1).unique(dim=0)) for each in before} >= {2, 4}  # two where a plane is a mirror


def test_axes_are_those_of_the_tensors(molecules: data.Molecules) -> None:
    """A molecule is most polarizable along its longest axis, least across: so the frames go with the tensors."""
    components = molecules.values("tensor")[:, [0, 2, 5]]
    assert (components[:, 0] > components[:, 2]).double().mean() > 0.95
    tensors = frames.candidates(molecules.values("tensor"), frames.charge_axes(molecules))
    pos, _ = frames.charge_centred(molecules.numbers, molecules.pos, molecules.molecule(), len(molecules))
    spread = pos.new_zeros(len(molecules), 3, 3).index_add(0, molecules.molecule(), pos[:, :, None] * pos[:, None])
    traceless = [x - torch.eye(3) * x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] for x in (tensors, spread)]
    alike = (traceless[0] * traceless[1][:, None]).sum((2, 3)) / (
        traceless[0].flatten(2).norm(dim=2) * traceless[1].flatten(1).norm(dim=1)[:, None]
    )
    assert alike.amax(1).mean() > 0.8
    # In the frame of the file it has nothing to do with the geometry.
    files = molecules.values("tensor")[:, torch.tensor(frames.PLACES)]
    files = files - torch.eye(3) * files.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    wrong = (files * traceless[1]).sum((1, 2)) / (files.flatten(1).norm(dim=1) * traceless[1].flatten(1).norm(dim=1))
    assert wrong.mean() < 0.5


def last_maps(model: MoleculeProperty) -> list[nn.Linear]:
    """Of the energy and of all targets."""
    heads: list[Any] = [model.potential.to_energy, *model.potential.to_targets.values()]
    return [head.network[-1] for head in heads]


def batch_of(molecules: data.Molecules, name: str, places: list[int]) -> dict[str, Tensor]:
    batch = run.collate(run.items_of(molecules, places, name), SMALL["cutoff"])
    return batch | {"pos": batch["pos"].double()}


@pytest.mark.parametrize("kind", TARGETS)
def test_properties_are_equivariant(molecules: data.Molecules, kind: Kind) -> None:
    model = MoleculeProperty(kind, SMALL).double()
    for last in last_maps(model):
        torch.nn.init.normal_(last.weight)
    batch = batch_of(molecules, KINDS[kind], [3, 7])
    values = batch.pop("value")
    model.fit(batch, values if kind != "tensor" else values[:, 0])
    found = model(batch)
    assert found.shape == ((2, 3, 3) if kind == "tensor" else (2,))

    def function(atomic_numbers: Tensor, pos: Tensor, batch: Tensor, edge_index: Tensor) -> Tensor:
        return model({"atomic_numbers": atomic_numbers, "pos": pos, "batch": batch, "edge_index": edge_index})

    if kind != "tensor":
        assert_equivariant(function, batch, outputs=Role())
        return
    turn = rotation()
    torch.testing.assert_close(model(batch | {"pos": batch["pos"] @ turn.mT - 2.0}), turn @ found @ turn.mT)
    assert (found - found.mT).abs().max() < tolerances.SAME_VALUE


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_fitted_is_a_start(molecules: data.Molecules, kind: Kind) -> None:
    """Without a network the fit has the smallest error that it can have, as what it says is left."""
    name = KINDS[kind]
    batch = batch_of(molecules, name, list(range(200)))
    values = batch["value"] if kind != "tensor" else batch["value"][:, 0]
    model = MoleculeProperty(kind, SMALL).double()
    left = model.fit(batch, values)
    for last in last_maps(model):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    with torch.no_grad():
        torch.testing.assert_close(values - model(batch), left, atol=1e-6, rtol=1e-6)
    share = left.square().mean() / (values - values.mean(0)).square().mean()
    assert share < {"sum": 0.2, "mean": 1.001, "length": 5.0, "extent": 2e-4, "tensor": 0.95}[kind]


def test_nearest_candidate() -> None:
    found = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    candidates = torch.tensor([[[5.0, 5.0], [1.0, 0.5]], [[0.0, 2.0], [4.0, 4.0]]])
    assert nearest(found, candidates).tolist() == [[1.0, 0.5], [0.0, 2.0]]


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.slow
def test_a_few_molecules_are_learned(molecules: data.Molecules, kind: Kind) -> None:
    batch = run.collate(run.items_of(molecules, list(range(12)), KINDS[kind]), SMALL["cutoff"])
    model = MoleculeProperty(kind, SMALL | {"dim": 16})
    left = model.fit(batch, batch["value"] if kind != "tensor" else batch["value"][:, 0])
    unit = left.square().mean().sqrt()
    optimizer = torch.optim.Adam([x for x in model.parameters() if x.requires_grad], lr=5e-3)
    losses = []
    for _ in range(120):
        found = model(batch)
        loss = ((found - run.true_values(found, batch)) / unit).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
