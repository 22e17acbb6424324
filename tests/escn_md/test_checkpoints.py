"""Files of fairchem: read without running or importing anything, applied as fairchem does, refused with the reason."""

from __future__ import annotations

import sys
import typing
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from equiformer_pytorch import ESCNMD
from equiformer_pytorch.atoms import load_potential
from equiformer_pytorch.base.foreign import CHECKPOINT, OMEGACONF, StandIn
from equiformer_pytorch.base.saved import read_saved
from tests.escn_md_cases import CASES, EXPECTED, build, structures
from tests.escn_md_cases import CHECKPOINT as FULL
from tests.published_cases import relative

INPUTS = ("atomic_numbers", "pos", "cell", "batch", "edge_index", "cell_offsets", "charge", "spin")


@contextmanager
def foreign_classes(*names: str) -> Iterator[dict[str, type]]:
    """Classes under those names, while a file is written."""
    made, before = {}, dict(sys.modules)
    for name in names:
        module, _, own = name.rpartition(".")
        for end in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:end])
            sys.modules.setdefault(part, ModuleType(part))
        if not hasattr(sys.modules[module], own):
            setattr(sys.modules[module], own, type(own, (), {"__module__": module, "__qualname__": own}))
        made[own] = getattr(sys.modules[module], own)
    try:
        yield made
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]


def node(value: Any, classes: dict[str, type]) -> Any:
    """As OmegaConf has it."""
    kind = "DictConfig" if isinstance(value, dict) else "ListConfig" if isinstance(value, list) else "AnyNode"
    made = classes[kind]()
    made.__dict__.update(_metadata=classes["Metadata"](), _parent=None)
    made._metadata.__dict__.update(ref_type=typing.Any, key=None)
    if isinstance(value, dict):
        made.__dict__["_content"] = {key: node(inner, classes) for key, inner in value.items()}
    elif isinstance(value, list):
        made.__dict__["_content"] = [node(inner, classes) for inner in value]
    else:
        made.__dict__["_val"] = value
    return made


def contents() -> dict[str, Any]:
    """Of a file of inference: tasks of three datasets, weights, and others that are their averages."""
    model = build("experts")
    weights = OrderedDict((name, value.detach().clone()) for name, value in model.state_dict().items())
    weights["backbone.Jd_0"] = torch.ones(1, 1)
    averaged = {"n_averaged": torch.tensor(7), **{f"module.{name}": value * 0.5 for name, value in weights.items()}}
    tasks = []
    for task in model.tasks.all:
        config: dict[str, Any] = {"name": task.name, "property": task.property, "datasets": list(task.datasets)}
        config["normalizer"] = {"mean": task.mean, "rmsd": task.rmsd}
        if task.references is not None:
            args = {"_target_": "torch.DoubleTensor", "_args_": [task.references.tolist()]}
            config["element_references"] = {"element_references": args}
        tasks.append(config)
    return {
        "model_config": CASES["experts"],
        "model_state_dict": weights,
        "ema_state_dict": averaged,
        "tasks_config": tasks,
    }


def write(path: Path, held: dict[str, Any], *, omegaconf: bool = False) -> Path:
    """One pickled object."""
    with foreign_classes(CHECKPOINT, *OMEGACONF[:-1]) as classes:
        made = classes["MLIPInferenceCheckpoint"]()
        if omegaconf:
            held = {**held, **{name: node(held[name], classes) for name in ("model_config", "tasks_config")}}
        made.__dict__.update(held)
        torch.save(made, path)
    return path


def call() -> dict[str, Any]:
    return {name: value for name, value in structures().items() if name in INPUTS}


@pytest.mark.parametrize("omegaconf", [False, True], ids=["plain", "omegaconf"])
def test_a_file_of_inference(omegaconf: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "uma.pt", contents(), omegaconf=omegaconf)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    model = ESCNMD.from_checkpoint(path, task="omat", ema=False)
    wanted = build("experts")
    assert not model.training
    assert model.task == "omat"
    assert torch.equal(model.evaluate(call())["energy"], wanted.evaluate(call())["energy"])
    for found in (ESCNMD.from_checkpoint(path, "omol"), load_potential(path)):
        for name, weight in found.named_parameters():
            assert torch.equal(weight * 2, wanted.get_parameter(name))
    assert not any(name.split(".")[0] in ("fairchem", "omegaconf") for name in sys.modules)
    assert not any(
        issubclass(held, StandIn) for held in torch.serialization.get_safe_globals() if isinstance(held, type)
    )


def test_each_structure_has_the_units_of_its_dataset(tmp_path: Path) -> None:
    model = ESCNMD.from_checkpoint(write(tmp_path / "uma.pt", contents()))
    assert model.task is None
    with pytest.raises(ValueError, match="dataset is missing: of oc20, omat, omol"):
        model.evaluate(call())
    given = structures()
    mixed = model.evaluate(given | {"dataset": given["dataset"]}, stress=True)
    raw = model(**call(), dataset=given["dataset"])
    for place, name in enumerate(given["dataset"]):
        model.task = name
        alone = model.evaluate({**call()}, stress=True)
        rows = given["batch"] == place
        assert relative(mixed["energy"][place], alone["energy"][place]) < 1e-12
        assert relative(mixed["forces"][rows], alone["forces"][rows]) < 1e-10 or not bool(alone["forces"][rows].any())
        task = model.tasks.find("energy", name)
        assert task is not None
        assert task.references is not None
        of_atoms = task.references[given["atomic_numbers"][rows]].sum()
        assert relative(mixed["energy"][place], raw["energy"][place] * task.rmsd + task.mean + of_atoms) < 1e-12
    assert mixed["energy"].dtype == torch.float64
    assert model.float().evaluate(given)["energy"].dtype == torch.float64


@pytest.mark.skipif(not FULL.exists(), reason="the full reference files are not part of the repository")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_expected_numbers(dtype: torch.dtype) -> None:
    """What fairchem's predict unit returns; where there was no cell, for the unit matrix that ASE has there."""
    file = torch.load(EXPECTED, weights_only=True)
    for given, wanted in zip(file["structures"], file[str(dtype).removeprefix("torch.")], strict=True):
        model = ESCNMD.from_checkpoint(FULL, task=given["task"]).to(dtype)
        batch = {
            "atomic_numbers": given["atomic_numbers"],
            "pos": given["data_pos"].double(),
            "cell": given["data_cell"],
            "pbc": given["data_pbc"],
            "charge": torch.tensor([given["charge"]]),
            "spin": torch.tensor([given["spin"]]),
        }
        for network in (model, model.merged(**batch)):
            found = network.evaluate(batch, stress=True)
            for name in ("energy", "forces", "stress"):
                off = relative(found[name].reshape(wanted[name].shape), wanted[name])
                assert off < (1e-12 if dtype == torch.float64 else 2e-5), name


def damaged(held: dict[str, Any], kind: str) -> dict[str, Any]:
    """What does not fit."""
    weights = held["ema_state_dict"]
    backbone = held["model_config"]["backbone"]
    name = "module.backbone.norm.affine_bias"
    if kind == "missing":
        del weights[name], weights["module.backbone.mix_csd.weight"]
    if kind == "unexpected":
        weights["module.backbone.sphere_embedding.bias"] = torch.zeros(1)
    if kind == "misshapen":
        weights[name] = torch.zeros(5)
    changed = {
        "layers": {"num_layers": 7},
        "degrees": {"lmax": 9},
        "network": {"model": "fairchem.core.models.esen.eSEN"},
        "argument": {"wings": 2},
        "value": {"norm_type": "none"},
        "type": {"lmax": "two"},
    }.get(kind, {})
    config = {**held["model_config"], "backbone": {**backbone, **changed}}
    if kind == "generation":
        del config["model_id"]
    if kind == "head":
        config["heads"] = {"head": {"module": "fairchem.core.models.les.LES_Head"}}
    if kind == "nested":
        deep: list[Any] = []
        for _ in range(200):
            deep = [deep]
        config["backbone"]["layers_moe"] = deep
    if kind == "normalizer":
        held["tasks_config"][0]["normalizer"] = {"mean": [1.0, 2.0], "rmsd": 3.0}
    if kind == "task":
        held["tasks_config"][0] = {"name": "omol_energy"}
    return {**held, "model_config": config}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["missing: backbone.mix_csd.weight, backbone.norm.affine_bias"]),
        ("unexpected", ["unexpected: backbone.sphere_embedding.bias"]),
        ("misshapen", [r"backbone.norm.affine_bias is \(5,\), wanted \(6,\)"]),
        ("layers", ["num_layers is 7, and the weights are of 2"]),
        ("degrees", [r"\(9 \+ 1\) · 6, the weights have 18"]),
        ("network", ["backbone.model must be one of", "eSEN'"]),
        ("argument", ["wings"]),
        ("value", ["norm_type must be one of"]),
        ("type", ["lmax|str"]),
        ("generation", ["model_id is missing", "UMA 1.0"]),
        ("head", ["must be one of MLP_EFS_Head", "LES_Head"]),
        ("nested", ["nested more than 100 deep"]),
        ("normalizer", ["normalizer of .* must have one mean"]),
        ("task", ["without name, property or datasets"]),
    ],
)
def test_files_that_do_not_fit(kind: str, words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / f"{kind}.pt", damaged(contents(), kind))
    with pytest.raises(ValueError, match=words[0]) as error:
        ESCNMD.from_checkpoint(path, task="omol")
    for each in (f"{kind}.pt", *words[1:]):
        assert each in str(error.value)


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "was here"), "w"))

    for name, held in (("evil", contents() | {"tasks_config": Evil()}), ("other", contents())):
        path = write(tmp_path / f"{name}.pt", held)
        if name == "other":
            with foreign_classes("fairchem.core.units.other.Checkpoint") as classes:
                torch.save(classes["Checkpoint"](), path)
        with pytest.raises(ValueError, match=f"{name}.pt holds more than tensors"):
            ESCNMD.from_checkpoint(path)
    assert not (tmp_path / "was here").exists()
    whole = write(tmp_path / "short.pt", contents()).read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"short.pt .* it is cut short"):
        ESCNMD.from_checkpoint(tmp_path / "short.pt")
    held = contents()
    del held["ema_state_dict"]
    with pytest.raises(ValueError, match=r"lacking.pt does not fit: .* lacks ema_state_dict"):
        ESCNMD.from_checkpoint(write(tmp_path / "lacking.pt", held))
    with pytest.raises(FileNotFoundError):
        ESCNMD.from_checkpoint(tmp_path / "nothing.pt")


def test_what_is_held_many_times_is_made_once(tmp_path: Path) -> None:
    """A small file that would unfold to more than any memory."""
    shared: list[Any] = [0]
    for _ in range(60):
        shared = [shared, shared]
    held = contents()
    held["tasks_config"][0]["metrics"] = shared
    model = ESCNMD.from_checkpoint(write(tmp_path / "shared.pt", held), "omol")
    assert model.task == "omol"


@pytest.mark.parametrize("kind", ["escn_md", "experts", "merged", "sampled, direct"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    model = build("experts" if kind == "merged" else kind)
    given = call()
    if kind == "merged":
        given = {"atomic_numbers": torch.tensor([1, 8, 1]), "pos": given["pos"][:3], "charge": torch.tensor([-1])}
        model = model.merged(**given, dataset="omol")
    if kind == "sampled, direct":
        model.task = "omol"
    model.save(tmp_path / "model.pt")
    for again in (load_potential(tmp_path / "model.pt"), ESCNMD.from_checkpoint(tmp_path / "model.pt")):
        assert isinstance(again, ESCNMD)
        assert (again.task, again.config, again.inputs) == (model.task, model.config, model.inputs)
        for name, value in model.evaluate(given).items():
            assert torch.equal(again.evaluate(given)[name], value)
        assert torch.equal(again.element_energies(), model.element_energies())
        assert again.merged_for == model.merged_for
    assert "model_config" not in read_saved(tmp_path / "model.pt")
