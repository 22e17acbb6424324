"""EquiformerV2 and EquiformerV3: symmetry, gradients, batches, borders, calls."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from equiformer_pytorch import EquiformerV2, EquiformerV3
from equiformer_pytorch.ops import pieces
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.testing import assert_equivariant, assert_gradients, equivariance_errors
from tests.models import mostly_slow
from tests.published_cases import GRADIENT, V2, V3, build, crystal, loss_of, molecule, relative, together
from tests.tolerances import PUBLISHED_EQUIVARIANCE, SAME_GRADIENT, SAME_VALUE

KINDS = ["v2", "v3", "gradient"]
SAME = SAME_GRADIENT[torch.float64]


EXACT = [
    ("v2", {"use_gate_act": True, "use_grid_mlp": False}),
    ("v3", {}),
    ("v3", {"attn_activation": "gate", "ffn_activation": "gate", "use_grid_mlp": False, "mmax": 1}),
    ("gradient", {}),
    ("gradient", {"use_add_merge": True, "attn_activation": "sep_s2_square", "norm_type": "sep_layer_norm"}),
]


@pytest.mark.parametrize(("kind", "changes"), EXACT)
def test_exact_equivariance(kind: str, changes: dict[str, Any]):
    assert_equivariant(build(kind, **changes), together(molecule(), crystal()), tolerance=SAME)


def test_fine_grids_are_equivariant_and_published_ones_nearly():
    errors = {}
    for n in (8, 18, 56):
        found = equivariance_errors(build("v2", grid_resolution=n), molecule(), under=("rotation",))
        errors[n] = max(found["rotation"].values())
    assert errors[56] < PUBLISHED_EQUIVARIANCE < errors[8]
    assert errors[56] < errors[18] < errors[8]


def test_translation_and_permutation_whatever_the_grid():
    assert_equivariant(build("v2"), molecule(), tolerance=SAME, under=("translation", "permutation"))


def test_energies_are_those_of_a_handed_network():
    """The published networks are SE(3)-equivariant: a mirror image of a chiral molecule may have another energy."""
    with pytest.raises(AssertionError, match="energy under reflection"):
        assert_equivariant(build("gradient"), molecule(), under=("reflection",), tolerance=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_one_by_one(kind: str):
    model, parts = build(kind), [molecule(), crystal(), molecule(4, seed=3)]
    batch = model(**together(*parts))
    for name, value in batch.items():
        assert relative(value, torch.cat([model(**part)[name] for part in parts])) < SAME_VALUE * 100


@pytest.mark.parametrize("kind", ["v3", "gradient"])
def test_frames_that_differ_by_a_roll_give_the_same(kind: str):
    model, inputs = build(kind), molecule()
    senders, receivers = inputs["edge_index"]
    y = torch.nn.functional.normalize(inputs["pos"][senders] - inputs["pos"][receivers], dim=1)
    x = torch.nn.functional.normalize(torch.linalg.cross(y, torch.randn_like(y)), dim=1)
    frames = torch.stack((x, y, torch.linalg.cross(x, y)), dim=1)
    for name, value in model(**inputs).items():
        assert relative(model(**inputs, edge_frames=frames)[name], value) < SAME


@pytest.mark.parametrize("kind", KINDS)
def test_isolated_atoms(kind: str):
    model, inputs = build(kind), molecule()
    inputs["edge_index"] = torch.zeros(2, 0, dtype=torch.long)
    inputs["cell_offsets"] = torch.zeros(0, 3, dtype=torch.float64)
    outputs = model(**inputs)
    assert all(value.isfinite().all() for value in outputs.values())
    if kind == "gradient":
        assert (outputs["forces"] == 0).all()
    loss_of(outputs).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_supercell(kind: str):
    model, one, two = build(kind), crystal(), crystal(repeat=2)
    single, double = model(**one), model(**two)
    assert relative(double["energy"], 2 * single["energy"]) < SAME
    if "forces" in single:
        assert relative(double["forces"], single["forces"].repeat(2, 1)) < SAME
    if "stress" in single:
        assert relative(double["stress"], single["stress"]) < SAME


TINY = {"num_layers": 1, "lmax": 1, "mmax": 1, "attn_grid_resolution_list": [4, 4], "ffn_grid_resolution_list": [4, 4]}


@pytest.mark.parametrize("changes", [{}, {"attn_activation": "sep-merge_s2_swiglu", "ffn_activation": "sep_s2"}])
def test_forces_stress_and_second_derivatives(changes: dict[str, Any]):
    assert_gradients(build("gradient", **TINY, **changes), molecule(3), by=["pos"])


def test_forces_and_stress_of_a_crystal():
    assert_gradients(build("gradient"), crystal(), by=["pos", "cell"], fast=True, second=False)


@pytest.mark.parametrize("detached", [False, True])
def test_energy_of_v2_has_the_right_gradient_unless_frames_are_detached(detached: bool):
    model = build("v2", use_gate_act=True, use_grid_mlp=False, detach_frames=detached)

    def energy(**inputs: torch.Tensor) -> torch.Tensor:
        return model(**inputs)["energy"]

    with pytest.raises(AssertionError, match="order 1 are wrong: output by pos") if detached else nullcontext():
        assert_gradients(energy, molecule(), by=["pos"], second=False)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_recomputed_layers_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch):
    inputs = together(molecule(), crystal())
    results = []
    for largest, blocks in ((2**27, None), (600, None), (2**27, [1, 0])):
        monkeypatch.setattr(pieces, "LARGEST", largest)
        model = build(kind, gradient_checkpointing_block_list=blocks)
        outputs = model(**inputs)
        loss_of(outputs).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([*outputs.values(), *gradients])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert relative(two, one) < SAME or (two - one).abs().max() < 1e-12


def test_without_gradients_nothing_is_recorded():
    for kind in KINDS:
        with torch.no_grad():
            outputs = build(kind)(**molecule())
        assert not any(value.requires_grad for value in outputs.values())


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode_drops(kind: str):
    rates = {"drop_path_rate": 0.5, "proj_drop": 0.2}
    of_version = (
        {"alpha_drop": 0.3}
        if kind == "v2"
        else {"alpha_drop": 0.1, "attn_mask_rate": 0.1, "attn_weights_drop": 0.1, "value_drop": 0.1, "ffn_drop": 0.1}
    )
    model, inputs = build(kind, **rates, **of_version), together(molecule(), crystal())
    calm = model(**inputs)["energy"]
    assert torch.equal(calm, model(**inputs)["energy"])
    model.train()
    seen = {round(model(**inputs)["energy"][0].item(), 9) for _ in range(4)}
    assert len(seen) > 1
    loss_of(model(**inputs)).backward()


@pytest.mark.parametrize("kind", KINDS)
def test_casts_do_not_round_constants(kind: str):
    model, wanted = build(kind), build(kind)
    model.float().double().load_state_dict(wanted.state_dict())
    for name, value in wanted(**molecule()).items():
        assert torch.equal(model(**molecule())[name], value)


def test_low_precision_weights():
    model, inputs = build("v3"), molecule()
    wanted = model(**inputs)["energy"]
    single = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    assert relative(model.float()(**single)["energy"].double(), wanted) < 1e-4


def test_call_forms():
    model, inputs = build("v3"), together(molecule(), molecule(4, seed=3))
    wanted = model(**inputs)["energy"]
    assert torch.equal(model(SimpleNamespace(**inputs))["energy"], wanted)
    natoms = SimpleNamespace(natoms=torch.tensor([6, 4]), **{k: v for k, v in inputs.items() if k != "batch"})
    assert torch.equal(model(natoms)["energy"], wanted)
    one = molecule()
    bare = {k: one[k] for k in ("atomic_numbers", "pos", "edge_index")}
    assert relative(build("v2")(**bare)["energy"], build("v2")(**one)["energy"]) < SAME


def test_finds_edges_itself():
    pytest.importorskip("equiformer_pytorch.graph.periodic", reason="the radius graph is not there yet")
    model, inputs = build("gradient", max_radius=3.0, max_neighbors=200), crystal(cutoff=3.0)
    bare = {k: inputs[k] for k in ("atomic_numbers", "pos", "cell", "batch")}
    for name, value in model(**inputs).items():
        assert relative(model(**bare)[name], value) < SAME


def test_takes_ase_atoms():
    ase = pytest.importorskip("ase")
    pytest.importorskip("equiformer_pytorch.graph.periodic", reason="the radius graph is not there yet")
    model, inputs = build("gradient", max_radius=3.0, max_neighbors=200).float(), crystal(cutoff=3.0)
    atoms = ase.Atoms(inputs["atomic_numbers"], inputs["pos"].numpy(), cell=inputs["cell"][0].numpy(), pbc=True)
    single = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    assert relative(model(atoms)["energy"], model(**single)["energy"]) < 1e-4
    assert model([atoms, atoms])["energy"].shape == (2,)


def test_frames_are_those_of_the_edges():
    inputs = molecule()
    frames = torch.eye(3, dtype=torch.float64).expand(inputs["edge_index"].shape[1], 3, 3)
    with pytest.raises(ValueError, match="edge_frames"):
        build("v3")(**inputs, edge_frames=frames)


WRONG = {
    "pos": lambda x: {"pos": x["pos"][:, :2]},
    "finite": lambda x: {"pos": x["pos"] * torch.nan},
    "atomic_numbers": lambda x: {"atomic_numbers": x["atomic_numbers"] + 100},
    "batch": lambda x: {"batch": torch.tensor([1, 0, 0, 0, 0, 0])},
    "edge_index must join": lambda x: {"batch": torch.tensor([0, 0, 0, 1, 1, 1]), "cell": x["cell"].expand(2, 3, 3)},
    "edge_index": lambda x: {"edge_index": x["edge_index"] + 3},
    "cell_offsets": lambda x: {"cell_offsets": x["cell_offsets"][1:]},
    "cell must": lambda x: {"batch": torch.tensor([0, 0, 0, 1, 1, 1])},
    "edge_frames": lambda x: {"edge_frames": x["cell_offsets"]},
}


@pytest.mark.parametrize("words", WRONG)
@pytest.mark.unchecked
def test_wrong_inputs(words: str):
    inputs = molecule()
    with pytest.raises(ValueError, match=words.split()[0]):
        build("gradient")(**{**inputs, **WRONG[words](inputs)})


@pytest.mark.unchecked
def test_missing_and_clashing_inputs():
    model, inputs = build("v3"), molecule()
    with pytest.raises(TypeError, match="pos is required"):
        model(atomic_numbers=inputs["atomic_numbers"])
    with pytest.raises(TypeError, match="pos"):
        model(SimpleNamespace(**inputs), pos=inputs["pos"])
    with pytest.raises(TypeError, match="data must be"):
        model(3)
    with pytest.raises(ValueError, match="cell is required"):
        build("gradient")(**{k: v for k, v in inputs.items() if k != "cell"})


BAD_ARGUMENTS = [
    (EquiformerV2, V2, {"lmax_list": [2, 4]}, "lmax_list"),
    (EquiformerV2, V2, {"mmax_list": [3]}, "mmax_list"),
    (EquiformerV2, V2, {"grid_resolution": 5}, "grid_resolution"),
    (EquiformerV2, V2, {"norm_type": "batch"}, "norm_type"),
    (EquiformerV2, V2, {"distance_function": "sigmoid"}, "distance_function"),
    (EquiformerV2, V2, {"use_s2_act_attn": True}, "use_s2_act_attn"),
    (EquiformerV2, V2, {"share_atom_edge_embedding": True, "use_atom_edge_embedding": False}, "share_atom"),
    (EquiformerV2, V2, {"drop_path_rate": 1.0}, "drop_path_rate"),
    (EquiformerV2, V2, {"gradient_checkpointing_block_list": [1]}, "gradient_checkpointing_block_list"),
    (EquiformerV3, V3, {"attn_activation": "relu"}, "attn_activation"),
    (EquiformerV3, V3, {"ffn_activation": "gate"}, "ffn_activation"),
    (EquiformerV3, V3, {"ffn_activation": "s2_swiglu", "use_grid_mlp": False}, "ffn_activation"),
    (EquiformerV3, V3, {"use_add_merge": True, "use_rad_l_parametrization": False}, "use_add_merge"),
    (EquiformerV3, V3, {"lmax": 1, "mmax": 1}, "lmax"),
    (EquiformerV3, V3, {"ffn_grid_resolution_list": [4, 4]}, "ffn_grid_resolution_list"),
    (EquiformerV3, GRADIENT, {"regress_forces": False}, "regress_stress"),
]


@pytest.mark.parametrize(("cls", "config", "changes", "words"), BAD_ARGUMENTS)
@pytest.mark.unchecked
def test_bad_arguments(cls, config: dict[str, Any], changes: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        cls(**{**config, **changes})


@pytest.mark.parametrize(("cls", "config"), [(EquiformerV2, V2), (EquiformerV3, V3)])
@pytest.mark.unchecked
def test_unknown_arguments(cls, config: dict[str, Any]):
    with pytest.raises(TypeError, match="sphere_chanels"):
        cls(**config, sphere_chanels=3)
    with pytest.raises(TypeError, match="num_layers"):
        cls(**{**config, "num_layers": 2.5})


# Dynamo looks at .grad of whatever it is given.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("kind", mostly_slow(["v2", "v3"], "v3"))
@pytest.mark.unchecked
@pytest.mark.slow
def test_layer_stack_compiles_as_one_graph(kind: str):
    torch._dynamo.reset()
    model, handed = build(kind), []
    handle = model.blocks.register_forward_pre_hook(lambda _, arguments: handed.append(arguments))
    model(**molecule())
    handle.remove()
    x, *rest = handed[0]
    compiled = torch.compile(model.blocks, fullgraph=True, backend="aot_eager")
    results = []
    for stack in (model.blocks, compiled):
        given = x.detach().clone().requires_grad_()
        out = stack(given, *rest)
        results.append((out, *torch.autograd.grad(out.square().sum(), given, retain_graph=True)))
    for one, other in zip(*results, strict=True):
        assert relative(other, one) < SAME
    torch._dynamo.reset()


def test_stress_tensors_are_those_of_the_harmonics():
    """Degree 0 and 2 components of rᵀ S r are the harmonics of r, up to one factor per degree."""
    from equiformer_pytorch.published.heads import symmetric_tensors

    points = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    values = torch.einsum("pi,cij,pj->pc", points, symmetric_tensors().unflatten(1, (3, 3)), points)
    harmonics = spherical_harmonics(points, recurrence_constants(2))
    assert relative(values[:, 4:] * 7.5**0.5, harmonics[:, 4:]) < SAME
    assert (values[:, 1:4] == 0).all()
