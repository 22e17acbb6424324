"""Published checkpoints: layouts, prefixes, averages, normalisers, and everything that does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from equiformer_pytorch import EquiformerV2, EquiformerV3
from tests.published_cases import GRADIENT, V2, V3, build, molecule, relative

CLASSES = {"v2": (EquiformerV2, V2), "v3": (EquiformerV3, V3), "gradient": (EquiformerV3, GRADIENT)}


def contents(kind: str = "v3", prefix: str = "", **more: Any) -> dict[str, Any]:
    """A checkpoint as the trainers write it."""
    weights = {prefix + name: value.detach().clone() for name, value in build(kind).state_dict().items()}
    # Constants, which are to be left out.
    weights[prefix + "distance_expansion.offset"] = torch.linspace(0, 4, 8)
    weights[prefix + "blocks.0.norm_1.expand_index"] = torch.arange(9)
    return {"state_dict": weights, "config": CLASSES[kind][1], **more}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "module.module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
def test_layouts_and_prefixes(kind: str, prefix: str, tmp_path: Path):
    torch.save(contents(kind, prefix), tmp_path / "checkpoint.pt")
    model = CLASSES[kind][0].from_checkpoint(tmp_path / "checkpoint.pt")
    assert not model.training
    assert torch.equal(model(**molecule())["energy"], build(kind)(**molecule())["energy"])


def test_compiled_blocks_and_nested_configurations():
    file = contents("v3")
    file["state_dict"] = {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in file["state_dict"].items()}
    wanted = build("v3")(**molecule())["energy"]
    for config in (
        {"model": {"name": "equiformer_v3", **V3}, "optim": {}},
        {"model": "equiformer_v3", "model_attributes": V3},
    ):
        assert torch.equal(EquiformerV3.from_checkpoint({**file, "config": config})(**molecule())["energy"], wanted)


@pytest.mark.parametrize("as_list", [True, False])
def test_averaged_weights(as_list: bool):
    file = contents("v2", "module.")
    averaged = {k: v * 0.5 for k, v in build("v2").named_parameters()}
    file["ema"] = {"decay": 0.999, "shadow_params": list(averaged.values())} if as_list else averaged
    plain, half = EquiformerV2.from_checkpoint(file), EquiformerV2.from_checkpoint(file, ema=True)
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter * 2, plain.get_parameter(name))
    with pytest.raises(ValueError, match="ema is missing"):
        EquiformerV2.from_checkpoint(contents("v2"), ema=True)
    with pytest.raises(ValueError, match="ema has 1 tensors"):
        EquiformerV2.from_checkpoint({**file, "ema": {"shadow_params": [torch.zeros(1)]}}, ema=True)


def test_every_key_that_does_not_fit_is_named():
    file = contents("v3")
    del file["state_dict"]["blocks.1.ga.proj.weight"], file["state_dict"]["norm.affine_bias"]
    file["state_dict"]["blocks.2.ga.proj.weight"] = torch.zeros(1)
    file["state_dict"]["sphere_embedding.weight"] = torch.zeros(20, 7)
    with pytest.raises(ValueError, match="do not fit") as error:
        EquiformerV3.from_checkpoint(file)
    for words in ("blocks.1.ga.proj.weight", "norm.affine_bias", "blocks.2.ga.proj.weight", "(20, 7), wanted (20, 6)"):
        assert words in str(error.value)


def test_parts_for_denoising_are_left_out_and_others_on_request():
    file = contents("v3")
    file["state_dict"]["force_embedding.weight"] = torch.zeros(3, 6, 1)
    file["state_dict"]["dens_block.alpha_dot"] = torch.zeros(2, 4)
    EquiformerV3.from_checkpoint(file)
    with pytest.raises(ValueError, match=r"unexpected: .*force_block"):
        EquiformerV3.from_checkpoint(file, config={"direct_prediction": False})
    heads = ("force_block.", "stress_block.")
    model = EquiformerV3.from_checkpoint(file, config={"direct_prediction": False}, ignore=heads)
    assert set(model(**molecule())) == {"energy", "forces", "stress"}


def test_configuration_is_inferred():
    """From weights and from constants as the official code writes them."""
    wanted = build("v2")
    constants = {
        "distance_expansion.offset": torch.linspace(0, 4, 600),
        "SO3_grid.2.2.to_grid_mat": torch.zeros(8, 8, 9),
    }
    with pytest.warns(UserWarning, match="max_neighbors"):
        model = EquiformerV2.from_checkpoint({**wanted.state_dict(), **constants})
    assert torch.equal(model(**molecule())["energy"], wanted(**molecule())["energy"])

    wanted = build("v3", avg_num_nodes=77.81317)
    grids = {
        "blocks.0.ga.act.so3_grid.to_grid_mat": grid_of(True),
        "blocks.0.ffn.so3_grid.to_grid_mat": grid_of(False),
        "distance_expansion.offset": torch.linspace(0, 4, 8),
        "norm.balance_degree_weight": torch.zeros(1, 9),
    }
    with pytest.warns(UserWarning, match="avg_num_nodes"):
        model = EquiformerV3.from_checkpoint({"state_dict": {**wanted.state_dict(), **grids}})
    for name, value in wanted(**molecule()).items():
        assert relative(model(**molecule())[name], value) < 1e-12
    with pytest.raises(ValueError, match="pass config"):
        EquiformerV3.from_checkpoint({"state_dict": {"weight": torch.zeros(1)}})


def grid_of(order_major: bool) -> torch.Tensor:
    from equiformer_pytorch.published.sphere_grid import grid_matrices

    return grid_matrices(2, 2, 8, 8, order_major, False)[0]


def test_files_that_would_run_code_are_refused(tmp_path: Path):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {}, "config": SimpleNamespace(a=1)}, path)
    with pytest.raises(ValueError, match="run code"):
        EquiformerV2.from_checkpoint(path)
    path.write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ValueError, match=r"run code|must hold a dict|not a file"):
        EquiformerV2.from_checkpoint(path)


def test_sources_of_the_wrong_kind():
    with pytest.raises(TypeError, match="source"):
        EquiformerV2.from_checkpoint(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no weights"):
        EquiformerV2.from_checkpoint({"epoch": 3})
    with pytest.raises(TypeError, match="depth"):
        EquiformerV3.from_checkpoint(contents("v3"), config={"depth": 3})


def test_normalisers_and_reference_energies():
    references = torch.arange(119.0, dtype=torch.float64)
    file = contents(
        "v3",
        normalizers={
            "energy": {"mean": torch.tensor(1.0), "rmsd": torch.tensor(2.0)},
            "forces": {"mean": 0.0, "rmsd": 3.0},
        },
        elementrefs={"energy": {"element_references": references}},
    )
    model, inputs = EquiformerV3.from_checkpoint(file), molecule()
    raw, scaled = model(**inputs), model.predict(**inputs)
    added = references[inputs["atomic_numbers"]].sum()
    assert relative(scaled["energy"], raw["energy"] * 2 + 1 + added) < 1e-12
    assert relative(scaled["forces"], raw["forces"] * 3) < 1e-12
    assert torch.equal(scaled["stress"], raw["stress"])
    old = contents("v2", normalizers={"target": {"mean": 0.5, "std": 4.0}, "grad_target": {"mean": 0.0, "std": 5.0}})
    assert EquiformerV2.from_checkpoint(old).scales.normalizers == {"energy": (0.5, 4.0), "forces": (0.0, 5.0)}
    with pytest.raises(ValueError, match="normalizers"):
        EquiformerV2.from_checkpoint(contents("v2", normalizers={"energy": {"mean": torch.zeros(3)}}))


def test_saved_weights_can_be_read_again(tmp_path: Path):
    model = build("gradient")
    torch.save({"state_dict": model.state_dict(), "config": GRADIENT}, tmp_path / "own.pt")
    again = EquiformerV3.from_checkpoint(tmp_path / "own.pt")
    assert torch.equal(again(**molecule())["forces"], model(**molecule())["forces"])
