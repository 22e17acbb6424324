"""Files of fairchem 1's `hydra` with parts of EquiformerV2, beside numbers of fairchem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equiformer_pytorch import EquiformerV2
from equiformer_pytorch.atoms import load_potential
from equiformer_pytorch.cli.info import told
from equiformer_pytorch.ops import pieces
from equiformer_pytorch.published.hydra import renamed
from equiformer_pytorch.testing import assert_gradients, equivariance_errors
from tests.data.build_published import projections
from tests.hydra_cases import MODELS, NORMALIZERS, checkpoint, own_edges, references, shipped, structures
from tests.published_cases import build, loss_of, molecule, relative
from tests.tolerances import PUBLISHED, SAME_GRADIENT, SAME_VALUE

KNOWN = shipped()
STRESS = {"decompose": True, "use_source_target_embedding": True}


def file_of(name: str = "decomposed", prefix: str = "") -> dict[str, Any]:
    return checkpoint(name, KNOWN[name], prefix)


def given_edges(name: str) -> dict[str, Tensor]:
    """The structures with fairchem's edges and frames."""
    inputs, known = structures(), KNOWN[name]
    edge_index, offsets = known["edge_index"].long(), known["cell_offsets"].double()
    senders, receivers = edge_index
    translation = (offsets[:, None] @ inputs["cell"][inputs["batch"][receivers]]).squeeze(1)
    along = torch.nn.functional.normalize(inputs["pos"][senders] + translation - inputs["pos"][receivers], dim=1)
    across = known["across"]
    frames = torch.stack((across, along, torch.linalg.cross(across, along)), dim=1)
    return {**inputs, "edge_index": edge_index, "cell_offsets": offsets, "edge_frames": frames}


@pytest.mark.parametrize("name", MODELS)
def test_shipped_numbers(name: str):
    """Outputs with normalisers and energies of elements, as fairchem's trainer gives them, and gradients."""
    known, model = KNOWN[name], EquiformerV2.from_checkpoint(file_of(name, "module."))
    inputs = given_edges(name)
    raw = model(**inputs, return_hidden=True)
    assert relative(projections(raw["hidden"]["final_norm"]), known["final_norm"]) < PUBLISHED
    outputs = model.predict(**inputs)
    assert outputs.keys() == known["outputs"].keys() == model.gives
    for key, value in known["outputs"].items():
        assert relative(outputs[key], value) < PUBLISHED, key
    loss_of(outputs).backward()
    names, wanted = known["gradients"]
    seen = set()
    for key, value in zip(names, wanted, strict=True):
        for ours in renamed({key: torch.empty(0)}):  # none for what is left out
            grad = model.get_parameter(ours).grad
            assert grad is not None
            found = projections(grad)
            assert relative(found, value) < PUBLISHED or (found - value).abs().max() < PUBLISHED, key
            seen.add(ours)
    assert seen == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_edges_are_found(name: str):
    """Ties at the largest number of neighbours are kept, or are not, as the configuration says."""
    model, inputs, known = EquiformerV2.from_checkpoint(file_of(name)), structures(), KNOWN[name]
    edges = own_edges(model, inputs)
    theirs = zip(known["edge_index"].T.tolist(), known["cell_offsets"].tolist(), strict=True)
    ours = zip(edges["edge_index"].T.tolist(), edges["cell_offsets"].tolist(), strict=True)
    assert sorted(ours) == sorted(theirs)
    assert model.strict_neighbors == (name == "whole")
    found = model.predict(**inputs, **edges)
    for key, value in model.predict(**inputs).items():
        assert torch.equal(value, found[key])


def test_files_of_the_trainer(tmp_path: Path):
    """Read as they are, by whoever reads potentials; and what `save` makes of them."""
    path, own = tmp_path / "eqV2.pt", tmp_path / "own.pt"
    torch.save(file_of(prefix="module."), path)
    model = EquiformerV2.from_checkpoint(path)
    model.save(own)
    inputs = structures()
    wanted = model.predict(**inputs)
    for again in (load_potential(path), EquiformerV2.from_checkpoint(own), load_potential(own)):
        assert isinstance(again, EquiformerV2)
        assert not again.training
        assert again.config == model.config
        for name, value in again.predict(**inputs).items():
            assert torch.equal(value, wanted[name])
    assert not any(name.startswith(("backbone.", "output_heads.")) for name in model.state_dict())
    said = told(path)
    assert said["gives"] == "energy, forces, stress"
    assert said["cutoff"] == "4 Å, at most 10 neighbours and those nearly as far as the next"
    assert "C -1.8600 eV" in said["reference energies"]


@pytest.mark.parametrize("name", ["denoising", "energy"])
@pytest.mark.parametrize("as_list", [True, False])
def test_averaged_weights(name: str, as_list: bool):
    file = file_of(name, "module.")
    trained = {
        key: file["state_dict"]["module." + key] * 0.5 for key, (_, own) in KNOWN[name]["parameters"].items() if own
    }
    file["ema"] = {"decay": 0.999, "shadow_params": list(trained.values())} if as_list else trained
    plain, half = EquiformerV2.from_checkpoint(file), EquiformerV2.from_checkpoint(file, ema=True)
    for key, parameter in half.named_parameters():
        assert torch.equal(parameter * 2, plain.get_parameter(key))
    assert torch.equal(load_potential(file).state_dict()["norm.affine_weight"], half.state_dict()["norm.affine_weight"])
    with pytest.raises(ValueError, match="ema has 1 tensors"):
        EquiformerV2.from_checkpoint({**file, "ema": {"shadow_params": [torch.zeros(1)]}}, ema=True)
    EquiformerV2.from_checkpoint({**file, "ema": {"shadow_params": [torch.zeros(1)]}})


def test_normalisers_of_a_stress_and_its_parts():
    model = EquiformerV2.from_checkpoint(file_of())
    raw, scaled = model(**structures())["stress"].unflatten(1, (3, 3)), model.predict(**structures())["stress"]
    eye = torch.eye(3, dtype=torch.float64)
    trace = raw.diagonal(dim1=1, dim2=2).sum(1) / 3**0.5
    (low, of_trace), (shift, of_rest) = (NORMALIZERS["decomposed"][f"stress_{part}otropic"] for part in ("is", "anis"))
    isotropic = (trace * of_trace + low)[:, None, None] * eye / 3**0.5
    rest = (raw - trace[:, None, None] * eye / 3**0.5) * of_rest
    # The mean is that of the five components, each of a matrix of its own.
    matrices = torch.tensor([[-1, 1, 1], [1, 2, 1], [1, 1, -1]], dtype=torch.float64)
    diagonal = torch.diag(torch.tensor([-1 / 6**0.5 - 1 / 2**0.5, 2 / 6**0.5, -1 / 6**0.5 + 1 / 2**0.5]).double())
    added = shift * ((matrices - torch.diag(matrices.diagonal())) / 2**0.5 + diagonal)
    assert relative(scaled.unflatten(1, (3, 3)), isotropic + rest + added) < 1e-7
    energies = references("decomposed")
    assert energies is not None
    assert model.element_energies()[6] == energies[6]
    of_denoising = EquiformerV2.from_checkpoint(file_of("denoising"))
    assert of_denoising.scales.normalizers == {"forces": (0.0, 0.43)}


def test_parts_of_a_stress_that_is_not_made_of_them_have_no_normalisers():
    """As in fairchem; whether the file says what it holds or the caller does."""
    file = file_of("whole")
    file["normalizers"]["stress_isotropic"] = {"mean": torch.tensor(0.3), "rmsd": torch.tensor(2.0)}
    model = EquiformerV2.from_checkpoint(file)
    without = {name: entry for name, entry in file.items() if name != "config"}
    for found in (model, EquiformerV2.from_checkpoint(without, config=model.config)):
        assert found.scales.normalizers == NORMALIZERS["whole"]


def test_a_fine_tuned_file_without_its_backbone_takes_the_callers_arguments():
    file, model = file_of(), EquiformerV2.from_checkpoint(file_of())
    left = {"heads": file["config"]["model"]["heads"], "finetune_config": {"starting_checkpoint": "first.pt"}}
    file["config"] = {**file["config"], "model": {"name": "hydra", **left}}
    found = EquiformerV2.from_checkpoint(file, config=model.config)
    assert found.config == model.config
    assert torch.equal(found.predict(**structures())["stress"], model.predict(**structures())["stress"])


def test_a_frozen_backbone_has_no_averages():
    file = file_of()
    trained = [key for key, (_, own) in KNOWN["decomposed"]["parameters"].items() if own]
    heads = [file["state_dict"][key] * 0.5 for key in trained if not key.startswith("backbone.")]
    file["ema"] = {"shadow_params": heads}
    with pytest.raises(ValueError, match=f"ema has {len(heads)} tensors"):
        EquiformerV2.from_checkpoint(file, ema=True)
    file["config"] = {**file["config"], "model": {**file["config"]["model"], "freeze_backbone": True}}
    plain, averaged = EquiformerV2.from_checkpoint(file), load_potential(file)
    assert torch.equal(averaged.get_parameter("norm.affine_weight"), plain.get_parameter("norm.affine_weight"))
    name = "energy_block.so3_linear_1.weight"
    assert torch.equal(averaged.get_parameter(name) * 2, plain.get_parameter(name))


ENERGY = {"module": "equiformer_v2_energy_head"}
WRONG = [
    ({"backbone": {"model": "escn_backbone"}}, "backbone.model must be one of equiformer_v2_backbone"),
    ({"backbone": None}, "config.model.backbone is missing"),
    ({"backbone": None, "finetune_config": {"starting_checkpoint": "first.pt"}}, "that of first.pt"),
    ({"heads": None}, "config.model.heads is missing"),
    ({"heads": {"e": {"module": "gemnet_oc_energy_head"}}}, r"heads\['e'\]\['module'\] must be for .*got 'gemnet"),
    ({"heads": {"forces": {"module": "equiformer_v2_force_head"}}}, "heads has none for the energy"),
    ({"heads": {"gap": {**ENERGY, "output_name": "band_gap"}}}, "output_name.* must be 'energy', got 'band_gap'"),
    ({"heads": {"energy": {**ENERGY, "reduce": "mean"}}}, "'reduce'.*must be 'sum'"),
    ({"heads": {"a": ENERGY, "b": ENERGY}}, "more than one for energy: a, b"),
    ({"heads": {"energy": {**ENERGY, "depth": 3}}}, "has depth, which"),
    ({"gradient_head": {"x": 1}}, "config.model has gradient_head"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_not_of_equiformer_v2_is_named(changes: dict[str, Any], words: str):
    file = file_of()
    file["config"] = {**file["config"], "model": {**file["config"]["model"], **changes}}
    with pytest.raises(ValueError, match=words):
        EquiformerV2.from_checkpoint(file)


def test_weights_and_scales_that_do_not_fit_are_named():
    for entry, name in (("normalizers", "oc20_energy"), ("elementrefs", "forces")):
        with pytest.raises(ValueError, match=f"{entry} has {name}; known are"):
            EquiformerV2.from_checkpoint({**file_of(), entry: {name: {"mean": 0.0, "rmsd": 1.0}}})
    file = file_of()
    del file["state_dict"]["output_heads.stress.block.irrep2_MLP.2.bias"]
    file["state_dict"]["output_heads.dipole.block_of_dipole.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="do not fit") as error:
        EquiformerV2.from_checkpoint(file)
    assert "missing: stress_block.block.irrep2_MLP.2.bias" in str(error.value)
    assert "unexpected: output_heads.dipole.block_of_dipole.weight" in str(error.value)
    file = file_of()
    file["config"]["model"] = {**file["config"]["model"]}
    file["config"]["model"]["backbone"] = {**file["config"]["model"]["backbone"], "wings": 2}
    with pytest.raises(TypeError, match="wings"):
        EquiformerV2.from_checkpoint(file)


def test_a_stress_head_is_inferred():
    for name, options in (("decomposed", STRESS), ("whole", dict.fromkeys(STRESS, False))):
        model = EquiformerV2.from_checkpoint(file_of(name))
        lmax = model.config["lmax_list"][0]
        constants = {
            "distance_expansion.offset": torch.linspace(0, 4, 600),
            f"SO3_grid.{lmax}.2.to_grid_mat": torch.zeros(8, 8, 9),
        }
        with pytest.warns(UserWarning, match="edge_level_mlp, extensive and avg_num_nodes of stress_head"):
            again = EquiformerV2.from_checkpoint({**model.state_dict(), **constants})
        assert again.config["stress_head"] == {"num_mlp_layers": 2, **options}


# Networks of one layer without bias are linear: with them the stress is a tensor if all else of the head is right.
LINEAR = {"num_mlp_layers": 1, "use_source_target_embedding": True}
GATES = {"use_gate_act": True, "use_grid_mlp": False}


@pytest.mark.parametrize("norm_type", ["layer_norm", "layer_norm_sh", "rms_norm_sh"])
@pytest.mark.parametrize(
    "options", [{"decompose": True}, {"decompose": False}, {"decompose": True, "edge_level_mlp": True}]
)
def test_the_stress_is_a_tensor_but_for_its_networks(options: dict[str, Any], norm_type: str):
    model = build("v2", **GATES, norm_type=norm_type, stress_head={**LINEAR, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("stress_block.block.") and name.endswith("bias"):
                parameter.zero_()
    errors = equivariance_errors(model, molecule(), under=("rotation", "translation", "permutation"))
    assert max(max(found.values()) for found in errors.values()) < SAME_GRADIENT[torch.float64]


def test_networks_as_published_do_not_turn_with_the_structure_but_for_the_trace():
    """What docs/published_models.md says of it."""
    model, inputs = build("v2", **GATES, stress_head=STRESS), molecule()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 1.0, -0.7], [-1.0, 0, 0.3], [0.7, -0.3, 0]], dtype=torch.float64))
    found = model(**inputs)["stress"].view(3, 3)
    turned = model(**{**inputs, "pos": inputs["pos"] @ turn, "cell": inputs["cell"] @ turn})["stress"].view(3, 3)
    assert relative(turned, turn.T @ found @ turn) > 0.1
    assert relative(turned.trace(), found.trace()) < SAME_VALUE
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("options", [STRESS, {"edge_level_mlp": True}])
def test_gradients_of_the_stress(options: dict[str, Any]):
    model, inputs = build("v2", num_layers=1, stress_head=options), molecule(3)
    constant = {name: inputs.pop(name) for name in ("atomic_numbers", "batch", "edge_index", "cell_offsets", "cell")}
    assert_gradients(lambda pos: model(**constant, pos=pos)["stress"], {"pos": inputs["pos"]})


@pytest.mark.parametrize("options", [STRESS, {"edge_level_mlp": True}])
def test_pieces_give_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    model, inputs = build("v2", num_layers=1, stress_head=options), molecule()

    def stress_and_gradients() -> list[Tensor]:
        stress = model(**inputs)["stress"]
        return [stress, *torch.autograd.grad(stress.square().sum(), list(model.stress_block.parameters()))]

    wanted = stress_and_gradients()
    monkeypatch.setattr(pieces, "LARGEST", 600)
    for found, value in zip(stress_and_gradients(), wanted, strict=True):
        assert relative(found, value) < SAME_GRADIENT[torch.float64]


def test_stress_of_borders():
    """No neighbours; a structure after another; edges without length; detached frames; other precisions."""
    model, inputs = build("v2", stress_head=STRESS), molecule()
    none = {**inputs, "edge_index": inputs["edge_index"][:, :0], "cell_offsets": inputs["cell_offsets"][:0]}
    assert model(**none)["stress"].isfinite().all()
    inputs["pos"] = inputs["pos"].clone().requires_grad_()
    with torch.no_grad():
        inputs["pos"][1] = inputs["pos"][0]
    (slope,) = torch.autograd.grad(model(**inputs)["stress"].sum(), inputs["pos"])
    assert slope.isfinite().all()
    detached = build("v2", stress_head=STRESS, detach_frames=True)
    assert torch.equal(detached(**molecule())["stress"], model(**molecule())["stress"])
    assert relative(model.float()(**molecule())["stress"].double(), detached(**molecule())["stress"]) < 1e-4


def test_bad_heads():
    for options, words in (
        ({"depth": 3}, "stress_head: .*depth"),
        ({"num_mlp_layers": 0}, "stress_head: num_mlp_layers"),
        ({"decompose": 1}, "stress_head: decompose"),
        (3, "stress_head must be a mapping"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            build("v2", stress_head=options)
    with pytest.raises(ValueError, match="stress_head needs a degree of at least 2"):
        build("v2", stress_head={}, lmax_list=[1], mmax_list=[1])
