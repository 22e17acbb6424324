"""Energies, forces, stress and targets: symmetric, consistent, smooth, differentiable twice, clear about bad input."""

from typing import Any

import pytest
import torch

from equiformer_pytorch.atoms import EquiformerPotential, Target
from equiformer_pytorch.testing import assert_equivariant, assert_gradients
from equiformer_pytorch.testing.equivariance import TRANSFORMATIONS
from tests.atoms.potentials import CUTOFF, SPECIES, WITH_TARGETS, crystal, molecule, potential, together

ATTENTIONS = pytest.mark.parametrize("l2", [True, False], ids=["l2", "mlp"])
BASES = pytest.mark.parametrize("basis", ["log", "even"])


def relative(a, b) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@ATTENTIONS
def test_turned_moved_and_reordered(l2):
    model = potential(l2_dist_attention=l2, targets=WITH_TARGETS)
    for structure in (molecule(8), crystal()):
        assert_equivariant(model, {**structure, "stress": "cell" in structure}, under=TRANSFORMATIONS)
        out = model(**structure)
        assert out["quadrupole"].shape == (1, 2, 5)
        assert out["gaps"].shape == (1, 3)


def test_a_chiral_potential_tells_a_mirror_image():
    with pytest.raises(AssertionError, match="energy under reflection"):  # rounding is 1e-15
        assert_equivariant(potential(reflection_equivariant=False), molecule(8), under=("reflection",), tolerance=1e-9)


@ATTENTIONS
@BASES
def test_forces_and_stress_are_derivatives_and_can_be_trained_on(l2, basis):
    """By positions, cell and weights: the gradient of a loss of energy, forces and stress."""
    model = potential(l2_dist_attention=l2, radial_basis=basis)
    assert_gradients(model, molecule(7), second=False, fast=True)
    assert_gradients(model, {**crystal(), "stress": True}, fast=True)
    assert_gradients(model, {**crystal(), "stress": True}, parameters=True, second=False, fast=True)


@ATTENTIONS
@pytest.mark.slow
def test_second_derivatives_entry_by_entry(l2):
    assert_gradients(potential(l2_dist_attention=l2), {**crystal(), "stress": True})


def test_batch_as_one_by_one():
    model = potential(targets=WITH_TARGETS)
    lone = {"atomic_numbers": torch.tensor([6]), "pos": torch.zeros(1, 3, dtype=torch.float64)}
    structures = [molecule(5, 1), lone, molecule(8, 2)]
    whole = model(**together(structures))
    single = [model(**structure) for structure in structures]
    for name, x in whole.items():
        expected = torch.cat([out[name] for out in single])
        assert (x - expected).abs().max() < 1e-11 * max(1, expected.abs().max()), name
    crystals = [crystal(1), crystal(2)]
    whole = model(**together(crystals), stress=True)
    single = [model(**structure, stress=True) for structure in crystals]
    for name, x in whole.items():
        assert relative(x, torch.cat([out[name] for out in single])) < 1e-11, name


@ATTENTIONS
def test_supercell(l2):
    """Twice the cell: twice the energy, the same forces and stress."""
    model, one = potential(l2_dist_attention=l2), crystal()
    for axis in range(3):
        cell = one["cell"].clone()
        shift = cell[0, axis].clone()
        cell[0, axis] *= 2
        two = {
            "atomic_numbers": one["atomic_numbers"].repeat(2),
            "pos": torch.cat((one["pos"], one["pos"] + shift)),
            "cell": cell,
        }
        small, large = model(**one, stress=True), model(**two, stress=True)
        assert relative(large["energy"], 2 * small["energy"]) < 1e-12
        assert relative(large["forces"], small["forces"].repeat(2, 1)) < 1e-10
        assert relative(large["stress"], small["stress"]) < 1e-10


def test_isolated_atoms():
    model = potential()
    far = {"atomic_numbers": torch.tensor([1, 8]), "pos": torch.tensor([[0.0, 0, 0], [50, 0, 0]], dtype=torch.float64)}
    out = model(**far)
    assert out["energy"].isfinite().all()
    assert (out["forces"] == 0).all()
    alone = model(atomic_numbers=far["atomic_numbers"][:1], pos=far["pos"][:1])["energy"]
    alone = alone + model(atomic_numbers=far["atomic_numbers"][1:], pos=far["pos"][1:])["energy"]
    assert relative(out["energy"], alone) < 1e-12


@ATTENTIONS
@BASES
def test_smooth_where_an_atom_leaves(l2, basis):
    """Energy and forces are continuous across the cutoff; second differences shrink as the square of the step."""
    model = potential(l2_dist_attention=l2, radial_basis=basis, noise=0.3)
    structure = molecule(4, size=0.8)
    direction = torch.nn.functional.normalize(torch.tensor([0.4, 1.0, -0.3], dtype=torch.float64), dim=0)

    def at(distance: float) -> torch.Tensor:
        pos = torch.cat((structure["pos"], structure["pos"][:1] + distance * direction))
        out = model(torch.cat((structure["atomic_numbers"], torch.tensor([8]))), pos)
        return torch.cat((out["energy"], out["forces"].flatten())).detach()

    inside, outside = at(CUTOFF - 1e-7), at(CUTOFF + 1e-7)
    assert (inside - outside).abs().max() < 1e-5
    assert (at(CUTOFF - 1.5) - at(CUTOFF)).abs().max() > 1e-3

    def second_difference(step: float) -> float:
        path = torch.stack([at(CUTOFF - 0.04 + step * i) for i in range(round(0.08 / step))])
        return (path[2:] - 2 * path[1:-1] + path[:-2]).abs().max().item()

    assert second_difference(0.002) < 0.35 * second_difference(0.004)


def test_references_and_scale_from_data():
    model = potential()
    true: dict[int, float] = dict(zip(SPECIES, (-13.0, -1000.5, -2000.25), strict=True))
    structures = []
    for seed in range(6):
        structure = molecule(4 + seed, seed)
        energy = sum(true[int(z)] for z in structure["atomic_numbers"])
        forces = torch.full((len(structure["pos"]), 3), 2.0)
        structures.append(structure | {"energy": torch.tensor(energy), "forces": forces})
    model.fit(structures)
    assert model.energies.references.tolist() == pytest.approx(list(true.values()), rel=1e-9)
    assert model.energies.scale.item() == pytest.approx(2.0)
    model.float()
    assert model.energies.references.dtype == torch.float64
    lone = model(torch.tensor([6]), torch.zeros(1, 3))
    assert lone["energy"].dtype == torch.float64
    assert abs(lone["energy"].item() + 1000.5) < 20
    with pytest.raises(ValueError, match="structures is empty"):
        model.fit([])


def test_saved_and_loaded(tmp_path):
    model = potential(targets=WITH_TARGETS)
    model.fit([molecule(5) | {"energy": torch.tensor(-7.5)}])
    model.save(tmp_path / "potential.pt")
    structure = molecule(6)
    again = EquiformerPotential.from_checkpoint(tmp_path / "potential.pt")
    for name, x in model(**structure).items():
        assert torch.equal(again(**structure)[name], x), name
    content = torch.load(tmp_path / "potential.pt", weights_only=True)
    assert torch.equal(
        EquiformerPotential.from_checkpoint(content)(**structure)["energy"], model(**structure)["energy"]
    )
    (tmp_path / "torn.pt").write_bytes((tmp_path / "potential.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"torn\.pt"):
        EquiformerPotential.from_checkpoint(tmp_path / "torn.pt")
    with pytest.raises(ValueError, match="state_dict is missing"):
        EquiformerPotential.from_checkpoint({"weights": {}})
    with pytest.raises(ValueError, match="do not fit"):
        EquiformerPotential.from_checkpoint(content | {"config": content["config"] | {"dim": 12}})


def test_files_say_how_distances_are_seen():
    """Where they do not, as those of 1.2, it is by their logarithm."""
    structure = molecule(6)
    for basis in ("log", "even"):
        model = potential(radial_basis=basis)
        content = {"config": model.config, "state_dict": model.state_dict()}
        again = EquiformerPotential.from_checkpoint(content)
        assert torch.equal(again(**structure)["forces"], model(**structure)["forces"])
    content["config"] = {name: value for name, value in content["config"].items() if name != "radial_basis"}
    with pytest.raises(ValueError, match="do not fit"):
        EquiformerPotential.from_checkpoint(content)
    content["state_dict"] = potential(radial_basis="log").state_dict()
    wanted = potential(radial_basis="log")(**structure)["forces"]
    assert torch.equal(EquiformerPotential.from_checkpoint(content)(**structure)["forces"], wanted)


def test_files_of_1_1_0_load():
    """They do not say whether the feed-forward sees norms: it did not."""
    model, structure = potential(ff_include_htype_norms=False), molecule(6)
    config = {name: value for name, value in model.config.items() if name != "ff_include_htype_norms"}
    again = EquiformerPotential.from_checkpoint({"config": config, "state_dict": model.state_dict()})
    assert torch.equal(again(**structure)["forces"], model(**structure)["forces"])


def test_without_gradients_and_without_forces():
    model, structure = potential(), crystal()
    with torch.no_grad():
        out = model(**structure, stress=True)
    assert not any(x.requires_grad for x in out.values())
    assert relative(out["forces"], model(**structure)["forces"]) < 1e-12
    assert set(model(**structure, forces=False)) == {"energy"}
    assert not structure["pos"].requires_grad


def test_given_edges_are_those_found():
    from equiformer_pytorch.graph.periodic import radius_graph

    model = potential()
    for structure in (molecule(7), crystal()):
        edge_index, cell_offsets = radius_graph(structure["pos"], CUTOFF + 1.0, cell=structure.get("cell"))
        given = model(**structure, edge_index=edge_index, cell_offsets=cell_offsets)
        found = model(**structure)
        assert relative(given["energy"], found["energy"]) < 1e-12
        assert relative(given["forces"], found["forces"]) < 1e-10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"atomic_numbers": torch.tensor([1, 6, 92])}, r"atomic_numbers has \[92\]"),
        ({"atomic_numbers": torch.tensor([1, 6, -3])}, r"atomic_numbers has \[-3\]"),
        ({"atomic_numbers": torch.tensor([1, 6])}, "pos"),
        ({"pos": torch.full((3, 3), torch.nan, dtype=torch.float64)}, "pos"),
        ({"pos": torch.zeros(3, 2, dtype=torch.float64)}, "pos"),
        ({"cell": torch.zeros(1, 3, 3, dtype=torch.float64)}, "cell"),
        ({"cell": torch.full((1, 3, 3), torch.inf, dtype=torch.float64)}, "cell"),
        ({"cell": torch.eye(2, dtype=torch.float64)}, "cell"),
        ({"edge_index": torch.tensor([[0, 1], [1, 0]])}, "cell_offsets is missing"),
        ({"batch": torch.tensor([0, 1, 5])}, "batch"),
        ({"cell": torch.eye(3, dtype=torch.float64).expand(2, 3, 3)}, "batch is missing"),
    ],
)
@pytest.mark.unchecked
def test_bad_input_is_named(change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        potential()(**crystal() | change, stress=True)


@pytest.mark.unchecked
def test_bad_settings_are_named():
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"species": ()}, "species"),
        ({"species": (1, 1)}, "species"),
        ({"species": (0,)}, "species"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"max_neighbors": 0}, "max_neighbors"),
        ({"targets": {"energy": Target(0)}}, "energy"),
        ({"targets": {"far": Target(5)}}, "far"),
        ({"targets": {"odd": {"degree": 0, "per": "bond"}}}, "odd"),
    )
    for options, words in bad:
        with pytest.raises(ValueError, match=words):
            potential(**options)
    with pytest.raises(ValueError, match="stress needs cell"):
        potential()(**molecule(3), stress=True)
    edges = {"edge_index": torch.tensor([[0, 1], [1, 0]]), "cell_offsets": torch.tensor([[0, 0, 1], [0, 0, -1]])}
    with pytest.raises(ValueError, match="cell is missing"):
        potential()(**molecule(3), **edges)
