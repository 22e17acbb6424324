"""`equiformer_pytorch.testing`: it passes what is right, and fails what is not, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from equiformer_pytorch.testing import Role, assert_equivariant, assert_gradients, equivariance_errors
from equiformer_pytorch.testing.roles import Motion
from tests import published_cases, tolerances
from tests.atoms import potentials
from tests.models import build, example
from tests.oracle import wigner_d

ALL = ("translation", "rotation", "permutation", "reflection")
POINTS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Sum(nn.Module):
    """Of vectors to all other points, times a weight; with a fault where one is asked for."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self.weight = fault, nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, coors: Tensor) -> dict[str, Tensor]:
        vectors = coors[None] - coors[:, None]
        distance = (vectors.square().sum(-1) + 1).sqrt()
        type1 = self.weight * (vectors * distance[..., None]).sum(1)
        type0 = distance.sum(1)
        if self.fault == "rotation":
            type1 = type1 * torch.tensor([1.0, 1.0, 1.001])
        if self.fault == "translation":
            type0 = type0 + 1e-3 * coors.norm(dim=1)
        if self.fault == "permutation":
            type0 = type0 + 1e-3 * torch.arange(len(coors))
        if self.fault == "reflection":
            type1 = type1 + 1e-3 * torch.linalg.cross(type1, vectors.sum(1))
        if self.fault == "zero":
            type1 = type1 * 0
        if self.fault == "nan":
            type1 = type1 * torch.nan
        return {"type0": type0, "type1": type1}


def test_right_function_passes() -> None:
    errors = equivariance_errors(Sum(), {"coors": POINTS}, under=ALL)
    assert list(errors) == list(ALL)
    assert all(list(found) == ["type0", "type1"] for found in errors.values())
    assert max(error for found in errors.values() for error in found.values()) < 1e-14
    assert_equivariant(Sum(), {"coors": POINTS}, under=ALL)
    assert_equivariant(Sum().float(), {"coors": POINTS.float()})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("rotation", "type1 under rotation: relative error [0-9.]+e-0[34]"),
        ("translation", "type0 under translation: relative error"),
        ("permutation", "type0 under permutation: relative error"),
        ("reflection", "not equivariant to 1e-10:\n  type1 under reflection: relative error [^\n]*$"),
        ("zero", "type1 under rotation: nothing but zeros"),
        ("nan", "type1 under rotation: relative error inf"),
    ],
)
def test_faults_are_named(fault: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_equivariant(Sum(fault), {"coors": POINTS}, under=ALL)


def test_only_what_is_asked_for() -> None:
    assert_equivariant(Sum("reflection"), {"coors": POINTS})
    assert_equivariant(Sum("translation"), {"coors": POINTS}, under=("rotation", "permutation"))
    assert_equivariant(Sum("rotation"), {"coors": POINTS}, outputs={"type1": None})
    with pytest.raises(ValueError, match="under must be some of"):
        assert_equivariant(Sum(), {"coors": POINTS}, under=("mirror",))


@pytest.mark.parametrize("degree", range(11))
def test_components_turn_as_in_e3nn(degree: int) -> None:
    angles = torch.tensor([0.4, 1.9, -2.2], dtype=torch.float64)
    turn = Motion(angles=angles)
    with torch.no_grad():
        yxy = o3.matrix_to_angles(turn.matrix(1))
    x = torch.randn(4, 2, 2 * degree + 1, dtype=torch.float64)
    wanted = x @ wigner_d(degree, *yxy).T
    role = Role.of_degree(degree, 0)
    torch.testing.assert_close(turn.of(x, role), wanted, rtol=0, atol=tolerances.ORACLE)
    inverted = Motion(angles=angles, improper=True).of(x, role)
    torch.testing.assert_close(inverted, (-1) ** degree * wanted, rtol=0, atol=tolerances.ORACLE)


def test_tensors_and_several_degrees() -> None:
    turn = Motion(angles=torch.tensor([0.4, 1.9, -2.2], dtype=torch.float64))
    matrix = turn.matrix(1)
    stress = torch.randn(2, 3, 3, dtype=torch.float64)
    wanted = matrix @ stress @ matrix.T
    torch.testing.assert_close(turn.of(stress, Role(tensor=True)), wanted)
    torch.testing.assert_close(turn.of(stress.flatten(1), Role(tensor=True)), wanted.flatten(1))

    fiber = Role.of_fiber((2, 3))
    x = torch.randn(4, 2 + 9, dtype=torch.float64)
    moved = turn.of(x, fiber)
    assert moved[:, :2].equal(x[:, :2])
    torch.testing.assert_close(moved[:, 2:].view(4, 3, 3), matrix @ x[:, 2:].view(4, 3, 3))
    assert list(fiber.by_degree("x", x)) == ["degree 0 of x", "degree 1 of x"]

    packed = torch.randn(4, 4, 5, dtype=torch.float64)
    moved = turn.of(packed, Role.up_to_degree(1))
    torch.testing.assert_close(moved[:, 1:], matrix @ packed[:, 1:])


def test_layers_of_ones_own() -> None:
    """A function of features with roles of their own; a fault of one degree is told from the others."""
    features = {"x": torch.randn(6, 2 + 9 + 5, dtype=torch.float64)}
    fiber = Role.of_fiber((2, 3, 1))

    def layer(x: Tensor, fault: float = 0.0) -> Tensor:
        return x * x[:, :1] + fault * torch.arange(16) * (torch.arange(16) >= 11)

    assert_equivariant(layer, features, roles={"x": fiber}, outputs=fiber)
    with pytest.raises(AssertionError, match=r"not equivariant to 1e-10:\n  degree 2 of output under rotation"):
        assert_equivariant(layer, {**features, "fault": 1e-3}, roles={"x": fiber}, outputs=fiber, under=("rotation",))
    with pytest.raises(ValueError, match="inputs has 'x': say in roles"):
        assert_equivariant(layer, features)
    with pytest.raises(ValueError, match="results have 'output': say in outputs"):
        assert_equivariant(layer, features, roles={"x": fiber})
    with pytest.raises(ValueError, match=r"roles has \['y'\]"):
        assert_equivariant(layer, features, roles={"y": fiber})


def test_edges_are_reordered_and_renumbered() -> None:
    edge_index = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
    given = {"coors": POINTS, "edge_index": edge_index, "edge_attr": torch.randn(6, dtype=torch.float64)}

    def gather(coors: Tensor, edge_index: Tensor, edge_attr: Tensor, fault: bool = False) -> dict[str, Tensor]:
        senders, receivers = edge_index
        weights = edge_attr * torch.arange(6) if fault else edge_attr
        messages = (coors[senders] - coors[receivers]) * weights[:, None]
        return {"type1": torch.zeros_like(coors).index_add(0, receivers, messages)}

    assert_equivariant(gather, given, under=ALL)
    with pytest.raises(AssertionError, match="type1 under permutation"):
        assert_equivariant(gather, {**given, "fault": True}, under=ALL)


def test_points_stay_in_their_structures() -> None:
    batch = torch.tensor([1, 0, 1, 1, 0])

    def call(coors: Tensor, batch: Tensor) -> dict[str, Tensor]:
        assert batch.tolist() == [1, 0, 1, 1, 0]
        means = torch.zeros(2, 3, dtype=coors.dtype).index_add(0, batch, coors)
        return {"type1": coors - means[batch] / torch.bincount(batch)[batch][:, None]}

    assert_equivariant(call, {"coors": POINTS, "batch": batch}, under=ALL)


@pytest.mark.parametrize("call", ["dense", "pooled", "reduced", "flat", "flat by degree"])
def test_equiformer(call: str) -> None:
    model = build(reduce_dim_out=call == "reduced", l2_dist_attention="flat" in call, edge_dim=3)
    sample = example(model)
    inputs: dict[str, Any] = {"inputs": sample.inputs, "coors": sample.coors, **sample.extra}
    if "flat" in call:
        pairs = (~torch.eye(7).bool()).nonzero().T
        inputs = {"inputs": sample.inputs[0], "coors": sample.coors[0], "edge_index": pairs}
        inputs |= {"edge_attr": torch.randn(42, 3, dtype=torch.float64)}
    inputs |= {"return_pooled": call == "pooled", "return_all_degrees": "degree" in call}
    assert_equivariant(model, inputs)
    with pytest.raises(AssertionError, match="under reflection"):
        assert_equivariant(model, inputs, under=("reflection",))


@pytest.mark.parametrize(("kind", "forces"), [("own", True), ("gradient", True), ("v3", False)])
def test_models_that_break(kind: str, forces: bool) -> None:
    """A layer that adds a little along x, in the middle of a model."""
    if kind == "own":
        model, structure = potentials.potential(), potentials.molecule(6)
        layer, column = model.network.embed, (slice(None), model.network.dim[0])
    else:
        model, structure = published_cases.build(kind), {**published_cases.molecule()}
        layer, column = model.edge_degree_embedding, (slice(None), 1)

    def disturb(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        changed = out.clone()
        changed[column] += 1e-4
        return changed

    assert_equivariant(model, structure)
    layer.register_forward_hook(disturb)
    with pytest.raises(AssertionError, match="energy under rotation") as caught:
        assert_equivariant(model, structure)
    assert "forces under rotation" in str(caught.value)
    assert "permutation" not in str(caught.value)
    if forces:
        assert_gradients(model, structure, by=["pos"], second=False, fast=True)


def test_potentials() -> None:
    model = potentials.potential(targets=potentials.WITH_TARGETS)
    structure = potentials.together([potentials.crystal(0), potentials.crystal(1)])
    assert_equivariant(model, {**structure, "stress": True}, under=ALL)
    for kind in ("v3", "gradient"):
        assert_equivariant(published_cases.build(kind), published_cases.crystal())


class Wrong(nn.Module):
    """An energy, and forces and stress that are its derivatives but for a fault."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault

    def forward(self, pos: Tensor, cell: Tensor) -> dict[str, Tensor]:
        strain = torch.zeros_like(cell, requires_grad=True)
        with torch.enable_grad():
            pos = pos if pos.requires_grad else pos.detach().requires_grad_()
            symmetric = (strain + strain.mT) / 2
            moved, moved_cell = pos + pos @ symmetric[0], cell + cell @ symmetric
            vectors = moved[None] - moved[:, None]
            energy = vectors.square().sum(-1).cos().sum()[None] + torch.linalg.det(moved_cell).sin()
            slope, of_strain = torch.autograd.grad(energy, (pos, strain), create_graph=True)
        forces = slope if self.fault == "sign" else -slope
        stress = of_strain * (1.0 if self.fault == "volume" else 1 / torch.linalg.det(cell)[:, None, None])
        return {"energy": energy, "forces": forces, "stress": stress}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("sign", "forces are not minus the gradient of energy by pos: relative error"),
        ("volume", "stress is not the derivative of energy by strain, per volume: relative error"),
        ("", ""),
    ],
)
def test_forces_beside_the_energy(fault: str, words: str) -> None:
    inputs = {"pos": POINTS, "cell": 2 * torch.eye(3, dtype=torch.float64)[None]}
    if not fault:
        assert_gradients(Wrong(), inputs)
        return
    with pytest.raises(AssertionError, match=words):
        assert_gradients(Wrong(fault), inputs)
    assert_gradients(Wrong(fault), inputs, conservative=False)


class WrongBackward(torch.autograd.Function):
    """x³ with a wrong derivative, or a wrong one of that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.order = order
        return x**3

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.order == 1:
            return slopes[0] * 3.01 * x**2, None
        return slopes[0] * (3 * x.detach() * x), None


@pytest.mark.parametrize("order", [1, 2])
def test_wrong_derivatives(order: int) -> None:
    def function(inputs: Tensor, coors: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.square(), WrongBackward.apply(coors, order)

    given = {"inputs": POINTS, "coors": POINTS}
    with pytest.raises(AssertionError, match=f"derivatives of order {order} are wrong"):
        assert_gradients(function, given)
    assert_gradients(function, given, by=["inputs"])
    if order == 1:
        with pytest.raises(AssertionError, match="wrong: 1 by coors"):
            assert_gradients(function, given)
    else:
        assert_gradients(function, given, second=False)


def test_gradients_of_models() -> None:
    model = build(dim=(2, 2), dim_in=(2,), num_degrees=2, output_degrees=2, depth=1, dim_head=2, radial_hidden_dim=3)
    sample = example(model, batch=1, points=3)
    inputs = {"inputs": sample.inputs, "coors": sample.coors}
    assert_gradients(model, inputs)
    assert_gradients(model, inputs, parameters=True, second=False, fast=True)
    direct = published_cases.build("v3")
    given = {**published_cases.molecule(3), "cell": None}
    with pytest.raises(AssertionError, match="forces are not"):
        assert_gradients(direct, given, by=["pos"], second=False, fast=True)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="coors must be float64"):
        assert_gradients(Sum(), {"coors": POINTS.float()})
    with pytest.raises(ValueError, match=r"by has \['pos'\], inputs have \['coors'\]"):
        assert_gradients(Sum(), {"coors": POINTS}, by=["pos"])
    with pytest.raises(ValueError, match="function to be a module, got function"):
        assert_gradients(lambda coors: coors, {"coors": POINTS}, parameters=True)
    with pytest.raises(AssertionError, match="no result has a gradient by coors"):
        assert_gradients(lambda coors: coors.detach(), {"coors": POINTS})
    assert_gradients(Sum(), {"coors": POINTS}, parameters=True)
