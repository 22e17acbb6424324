"""Potentials under the transforms of torch.func, in inference mode, and far from the origin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

pytest.importorskip("ase")
from ase import Atoms

from equiformer_pytorch.atoms import EquiformerCalculator, load_potential, predict, radius_graph
from tests.atoms import potentials
from tests.atoms.kinds import CONSERVATIVE, KINDS, build, relative

# Where torch.func makes decompositions for forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
SAME = 1e-10


def functions(kind: str, *, edges: bool = False) -> tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor, Tensor]:
    """Energy and forces of a crystal as functions of positions and cell, and these; edges found or given."""
    model, inputs = build(kind), potentials.crystal()
    given = {}
    if edges:
        edge_index, offsets = radius_graph(inputs["pos"], potentials.CUTOFF, cell=inputs["cell"])
        given = {"edge_index": edge_index, "cell_offsets": offsets}

    def output(name: str) -> Callable[..., Tensor]:
        def function(pos: Tensor, cell: Tensor = inputs["cell"]) -> Tensor:
            out = model(atomic_numbers=inputs["atomic_numbers"], pos=pos, cell=cell, **given)[name]
            return out.sum() if name == "energy" else out

        return function

    return output("energy"), output("forces"), inputs["pos"], inputs["cell"]


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_autograd(kind: str) -> None:
    """Neighbours are found from plain values, whatever transforms are at work."""
    energy, forces, pos, cell = functions(kind)
    slope: Any = torch.autograd.functional.jacobian(energy, pos)
    jacobian: Any = torch.autograd.functional.jacobian(forces, pos)
    by_cell: Any = torch.autograd.functional.jacobian(lambda cell: forces(pos, cell), cell)
    along = torch.randn_like(pos)
    assert relative(grad(energy)(pos), slope) < SAME
    assert relative(jacrev(forces)(pos), jacobian) < SAME
    assert relative(jacfwd(forces)(pos), jacobian) < SAME
    assert relative(jacrev(lambda cell: forces(pos, cell))(cell), by_cell) < SAME
    value, change = jvp(forces, (pos,), (along,))[:2]
    assert relative(value, forces(pos)) < SAME
    assert relative(change, torch.einsum("aibj,bj->ai", jacobian, along)) < SAME
    second: Any = torch.autograd.functional.hessian(energy, pos)
    assert relative(hessian(energy)(pos), second) < SAME
    assert relative(jacrev(grad(energy))(pos), second) < SAME
    if kind in CONSERVATIVE:
        assert relative(jacobian, -second) < SAME


@pytest.mark.parametrize("kind", KINDS)
def test_many_geometries_at_once(kind: str) -> None:
    energy, forces, pos, _ = functions(kind, edges=True)
    several = torch.stack([pos + 0.01 * torch.randn_like(pos) for _ in range(3)])
    assert relative(vmap(energy)(several), torch.stack([energy(x) for x in several])) < SAME
    assert relative(vmap(forces)(several), torch.stack([forces(x) for x in several])) < SAME
    slopes = vmap(grad(energy), in_dims=1)(several.transpose(0, 1))
    assert relative(slopes, torch.stack([grad(energy)(x) for x in several])) < SAME
    with pytest.raises(ValueError, match=r"pos must be finite for every atom, got \[nan"):
        vmap(energy)(torch.stack((pos, pos * torch.nan)))
    energy, *_, cell = functions(kind)
    with pytest.raises(ValueError, match=r"edge_index is missing: torch.vmap hides a dimension of pos"):
        vmap(energy)(several)
    with pytest.raises(ValueError, match=r"edge_index is missing: torch.vmap hides a dimension of cell"):
        vmap(lambda cell: energy(pos, cell))(torch.stack((cell, cell)))


@pytest.mark.parametrize("kind", KINDS)
def test_several_models_at_once(kind: str) -> None:
    """And the gradient of a loss on forces by weights."""
    inputs = potentials.crystal()
    models = [build(kind), build(kind)]
    with torch.no_grad():
        for weight in models[1].parameters():
            weight += 0.01
    weights, buffers = stack_module_state(models)

    def forces(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(models[0], (weights, buffers), (), inputs)["forces"]

    found = vmap(forces)(weights, buffers)
    assert relative(found, torch.stack([model(**inputs)["forces"] for model in models])) < SAME
    of_first = dict(models[0].named_parameters())
    slopes = grad(lambda weights: forces(weights, dict(models[0].named_buffers())).square().sum())(of_first)
    wanted = torch.autograd.grad(
        models[0](**inputs)["forces"].square().sum(), list(of_first.values()), allow_unused=True
    )
    for name, value in zip(of_first, wanted, strict=True):
        assert value is None or (slopes[name] - value).abs().max() < SAME * (1 + value.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode(kind: str) -> None:
    """Forces are found in it, and what comes out can be used afterwards; inputs made in it can, too."""
    model, inputs = build(kind), potentials.crystal()
    wanted = model(**inputs)
    batch = {**inputs, "batch": torch.zeros(3, dtype=torch.long)}
    with torch.inference_mode():
        made_inside = {name: x.clone() for name, x in batch.items()}
        results = [model(**inputs), model(**made_inside), predict(model, batch), predict(model, made_inside)]
        numbers, pos, cell = (inputs[name].numpy() for name in ("atomic_numbers", "pos", "cell"))
        atoms = Atoms(numbers, pos, cell=cell[0], pbc=True)
        atoms.calc = EquiformerCalculator(model)
        forces = atoms.get_forces()
        assert model.training is False
    physical = predict(model, batch)
    for found, expected in zip(results, (wanted, wanted, physical, physical), strict=True):
        assert not any(x.is_inference() or x.requires_grad for x in found.values())
        assert all(relative(x, expected[name]) < SAME for name, x in found.items())
        weight = torch.ones((), requires_grad=True, dtype=torch.float64)
        (found["forces"] * weight).sum().backward()
    assert relative(torch.tensor(forces), physical["forces"]) < SAME
    atoms.rattle(0.01)
    assert atoms.get_forces().shape == (3, 3)
    loss = model(**made_inside)["forces"].square().sum()
    assert any(parameter.grad is not None for parameter in (loss.backward(), *model.parameters())[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_are_made_in_inference_mode(kind: str, tmp_path) -> None:
    model, inputs = build(kind), potentials.crystal()
    model.save(tmp_path / "model.pt")
    with torch.inference_mode():
        made = [load_potential(tmp_path / "model.pt"), type(model)(**model.config).double()]
        of_file = EquiformerCalculator(tmp_path / "model.pt")
    made[1].load_state_dict(model.state_dict())
    made += [copy.deepcopy(made[1]), of_file.potential]
    for again in made:
        out = again.eval()(**inputs)
        assert relative(out["forces"], model(**inputs)["forces"]) < SAME
        out["forces"].square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_far_from_the_origin(kind: str, dtype: torch.dtype) -> None:
    """Positions in float64, 1e4 Å away and unwrapped by hundreds of cells: nothing is lost in a model of any dtype."""
    model, inputs = build(kind).to(dtype), potentials.crystal()
    cell = inputs["cell"][0]
    shift = torch.tensor([[3000.0, -17.0, 12.0], [-800.0, 2500.0, 0.0], [1.0, 1.0, 2100.0]], dtype=torch.float64) @ cell
    away = {**inputs, "pos": inputs["pos"] + shift + torch.tensor([1e4, -1e4, 1e4])}
    stress = kind != "v2"
    wanted, found = model(**inputs, stress=stress), model(**away, stress=stress)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert relative(found[name], value) < (1e-9 if dtype == torch.float64 else 1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_loses_no_more_than_the_positions(kind: str) -> None:
    """float32 positions far away: as float64 positions of the same values in the same model."""
    model, inputs = build(kind).float(), potentials.crystal()
    inputs["cell"] = inputs["cell"].float()
    cells = torch.tensor([500.0, -2000.0, 1000.0], dtype=torch.float64)
    far = (inputs["pos"] + cells @ inputs["cell"][0].double()).float()
    single, double = model(**{**inputs, "pos": far}), model(**{**inputs, "pos": far.double()})
    assert single["forces"].dtype == torch.float32
    for name, value in double.items():
        assert relative(single[name].double(), value.double()) < 1e-6, name
    exact = build(kind)(**{**inputs, "pos": far.double(), "cell": inputs["cell"].double()})
    assert relative(single["forces"].double(), exact["forces"]) < 1e-4
    assert relative(single["energy"].double(), exact["energy"].double()) < 1e-4
