"""Whichever model a file holds: the right one is loaded, used alike, and saved again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ase")
import numpy as np
from ase import Atoms

from equiformer_pytorch import EquiformerPotential, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms import (
    EquiformerCalculator,
    collate_structures,
    element_energies,
    load_potential,
    predict,
    radius_graph,
    refit_references,
)
from equiformer_pytorch.published.scales import Scales
from tests import shapes
from tests.atoms.potentials import molecule, potential
from tests.models import mostly_slow
from tests.published_cases import GRADIENT, V2, V3, build

SCALES = Scales({"energy": (0.5, 2.0), "forces": (0.0, 2.0)}, torch.linspace(-9, 9, 20, dtype=torch.float64))


def model_of(kind: str) -> EquiformerPotential | EquiformerV2 | EquiformerV3:
    if kind == "own":
        return potential()
    model = build(kind)
    model.scales = SCALES
    return model


def structures(count: int = 6) -> list[dict[str, torch.Tensor]]:

    found = []
    for seed in range(count):
        item = molecule(3 + seed, seed)
        edge_index, cell_offsets = radius_graph(item["pos"], 3.0)
        cell, pbc = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
        found.append({**item, "edge_index": edge_index, "cell_offsets": cell_offsets, "cell": cell, "pbc": pbc})
    return found


@pytest.mark.parametrize("kind", ["own", "v2", "v3", "gradient"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    model.save(tmp_path / "model.pt")
    again = load_potential(tmp_path / "model.pt")
    assert type(again) is type(model)
    assert again.config == model.config
    item = molecule(5)
    atoms = Atoms(item["atomic_numbers"].numpy(), item["pos"].numpy())
    calculators = [EquiformerCalculator(source) for source in (model, tmp_path / "model.pt")]
    assert calculators[0].get_potential_energy(atoms) == calculators[1].get_potential_energy(atoms)
    one, other = (np.asarray(calculator.get_forces(atoms)) for calculator in calculators)
    assert np.array_equal(one, other)


@pytest.mark.parametrize(("kind", "config"), [("v2", V2), ("v3", V3), ("gradient", GRADIENT)])
def test_files_of_official_trainers(kind: str, config: dict) -> None:
    """Nested configuration, prefixes, constants; averaged weights are taken where there are some."""
    plain, averaged = build(kind), build(kind)
    with torch.no_grad():
        for weight in averaged.parameters():
            weight.mul_(0.5)
    weights = {f"module.module.{name}": value for name, value in plain.state_dict().items()}
    file = {
        "state_dict": {**weights, "module.module.distance_expansion.offset": torch.linspace(0, 4, 8)},
        "config": {"model": {"name": "equiformer", **config}},
        "normalizers": {"energy": {"mean": torch.tensor(1.0), "rmsd": torch.tensor(2.0)}},
        "ema": None,
    }
    batch = {**structures(1)[0], "batch": torch.zeros(3, dtype=torch.long)}
    batch["cell"] = batch["cell"][None]
    for ema, wanted in ((None, plain), ({"shadow_params": list(averaged.parameters())}, averaged)):
        found = predict(load_potential({**file, "ema": ema}), batch)["energy"]
        wanted.scales = Scales({"energy": (1.0, 2.0)})
        assert torch.equal(found, predict(wanted, batch)["energy"])


@pytest.mark.parametrize("kind", ["own", "v2", "gradient"])
def test_references_are_refitted(kind: str) -> None:
    """Energies of the model itself, another zero for each element: that zero is found, forces stay, single precision
    is no obstacle."""
    model = model_of(kind).float()
    items = [{name: t.float() if t.is_floating_point() else t for name, t in item.items()} for item in structures()]
    zero = torch.zeros(119, dtype=torch.float64)
    zero[[1, 6, 8]] = torch.tensor([-13.605, -1030.25, -2041.5], dtype=torch.float64)

    batch = collate_structures(items)
    before = predict(model, batch)
    for item, energy in zip(items, before["energy"].detach(), strict=True):
        item["energy"] = energy + zero[item["atomic_numbers"]].sum()
    old = element_energies(model)
    refit_references(model, items, batch_size=4)
    torch.testing.assert_close(element_energies(model) - old, zero, rtol=0, atol=1e-6)
    after = predict(model, batch)
    assert after["energy"].dtype == torch.float64
    torch.testing.assert_close(after["energy"], torch.stack([item["energy"] for item in items]), rtol=0, atol=1e-4)
    assert torch.equal(after["forces"], before["forces"])
    with pytest.raises(ValueError, match="empty"):
        refit_references(model, [])


def test_what_is_no_potential(tmp_path: Path) -> None:
    torch.save({"model": {"network.weight": torch.zeros(1)}}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt holds none of EquiformerPotential"):
        load_potential(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="source holds none of"):
        load_potential({"state_dict": [1, 2]})
    state = build("v2").state_dict()
    torch.save({"state_dict": state, "config": {**V2, "num_layers": 3}}, tmp_path / "layers.pt")
    with pytest.raises(ValueError, match=r"layers\.pt does not fit EquiformerV2: .*missing: blocks\.2"):
        load_potential(tmp_path / "layers.pt")
    with pytest.raises(FileNotFoundError):
        EquiformerCalculator(tmp_path / "none.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", mostly_slow(["own", "v2", "v3"], "own"))
def test_names_of_wrapped_weights(kind: str, prefix: str) -> None:
    """Before all names or inside them, as data parallelism, compilation and averaging leave them."""
    model = model_of(kind)
    state, inputs = model.state_dict(), molecule(5)
    inside = {name.replace(".", f".{prefix}", 1): value for name, value in state.items()}
    for names in (
        {prefix + name: value for name, value in state.items()},
        inside,
        {**state, "n_averaged": torch.ones(1)},
    ):
        for source in (
            {"state_dict": names, "config": model.config},
            {"model": "x", "state_dict": names, "config": model.config},
        ):
            for again in (load_potential(source), type(model).from_checkpoint(source).eval()):
                given = {} if kind == "own" else {"stress": False}
                assert torch.equal(again(**inputs, **given)["energy"], model(**inputs, **given)["energy"])


@shapes.compiled
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("kind", ["own", "v3"])
def test_a_model_with_a_compiled_part_is_saved_under_plain_names(kind: str, tmp_path: Path) -> None:
    model: Any = model_of(kind)
    plain = model_of(kind)
    if kind == "own":
        model.network.layers = torch.compile(model.network.layers, backend="eager")
    else:
        model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    assert any("_orig_mod" in name for name in model.state_dict())
    model.save(tmp_path / "model.pt")
    contents = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(contents["state_dict"]) == list(plain.state_dict())
    assert contents["model"] == type(model).__name__
    again = load_potential(tmp_path / "model.pt")
    item = structures(1)[0]
    batch = collate_structures([item])
    assert torch.equal(predict(again, batch)["forces"], predict(plain, batch)["forces"])
    atoms = Atoms(item["atomic_numbers"].numpy(), item["pos"].numpy())
    forces = [np.asarray(EquiformerCalculator(each).get_forces(atoms)) for each in (model, plain)]
    assert abs(forces[0] - forces[1]).max() < 1e-12


@pytest.mark.parametrize("kind", ["own", "v2", "v3"])
def test_files_that_are_something_else(kind: str, tmp_path: Path) -> None:
    """Each with its name and what it is, wherever a file is taken."""
    model = model_of(kind)
    model.save(tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    files = {
        "torn.pt": (whole[: len(whole) - 20], "cut short"),
        "short.pt": (whole[:500], "cut short"),
        "empty.pt": (b"", "is empty"),
        "page.pt": (b"<!DOCTYPE html><html></html>", "web page"),
        "lfs.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git-lfs"),
    }
    readers = (load_potential, type(model).from_checkpoint, EquiformerCalculator)
    for name, (contents, words) in files.items():
        (tmp_path / name).write_bytes(contents)
        for read in readers:
            with pytest.raises(ValueError, match=f"{name} .*{words}"):
                read(tmp_path / name)
    run = {"step": 3, "model": model.state_dict(), "ema": {}, "optimizer": {}, "about": {}}
    torch.save(run, tmp_path / "checkpoint.pt")
    for read in readers:
        with pytest.raises(ValueError, match=r"a training run goes on from.*potential\.pt"):
            read(tmp_path / "checkpoint.pt")


def test_a_file_of_another_family(tmp_path: Path) -> None:
    model_of("v2").save(tmp_path / "v2.pt")
    with pytest.raises(ValueError, match=r"v2\.pt holds an EquiformerV2: load_potential loads any"):
        EquiformerPotential.from_checkpoint(tmp_path / "v2.pt")


def test_a_name_that_no_family_bears_is_no_hindrance() -> None:
    """Official files may say something else of their model."""
    model = model_of("v3")
    again = load_potential({"model": "equiformer_v3", "state_dict": model.state_dict(), "config": V3})
    assert type(again) is EquiformerV3
    with pytest.raises(ValueError, match="source does not fit EquiformerV2"):
        load_potential({"model": "EquiformerV2", "state_dict": model.state_dict(), "config": V3})


@pytest.mark.parametrize("kind", ["own", "gradient", "v2"])
def test_stress_where_there_is_one(kind: str) -> None:
    batch = collate_structures(structures())
    batch["cell"] = 10 * torch.eye(3, dtype=torch.float64).expand_as(batch["cell"])
    model = model_of(kind)
    if kind == "v2":
        with pytest.raises(ValueError, match="the model gives none"):
            predict(model, batch, stress=True)
    else:
        out = predict(model, batch, stress=True)
        assert out["stress"].shape == (len(structures()), 3, 3)
        torch.testing.assert_close(out["stress"], out["stress"].mT, rtol=0, atol=1e-12)
