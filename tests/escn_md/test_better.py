"""Where users of fairchem complain, and what is promised here instead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiformer_pytorch.published.escn_md.frames import blended_frames
from equiformer_pytorch.testing import assert_equivariant
from tests.escn_md_cases import build, call_of, structures
from tests.published_cases import crystal, relative


def differences(model, inputs: dict, step: float = 1e-4) -> Tensor:
    """Forces by central differences."""
    found = torch.zeros_like(inputs["pos"])
    for index in range(found.numel()):
        energies = []
        for sign in (1, -1):
            pos = inputs["pos"].clone()
            pos.view(-1)[index] += sign * step
            energies.append(model(**{**inputs, "pos": pos}, forces=False, stress=False)["energy"].sum())
        found.view(-1)[index] = (energies[1] - energies[0]) / (2 * step)
    return found


@pytest.mark.parametrize("kind", ["escn_md", "sampled", "experts"])
@pytest.mark.parametrize("quaternions", [True, False])
def test_forces_of_bonds_along_y(kind: str, quaternions: bool) -> None:
    """In every mode, also that whose published rotations have none there."""
    model = build(kind, use_quaternion_wigner=quaternions)
    for direction in (1.0, -1.0):
        inputs = {
            "atomic_numbers": torch.tensor([8, 1, 6]),
            "pos": torch.tensor([[0.0, 0, 0], [0, direction, 0], [1.1, -0.2 * direction, 0.3]], dtype=torch.float64),
            "dataset": ["omat"],
        }
        with torch.no_grad():
            found = model(**inputs)["forces"]
            assert relative(found, differences(model, inputs)) < 1e-6


@pytest.mark.parametrize("kind", ["escn_md", "sampled", "experts", "sampled, direct"])
def test_the_same_bits_every_time(kind: str) -> None:
    model, call = build(kind), call_of(structures())
    with torch.no_grad():
        first, second = model(**call), model(**call)
    for name, value in first.items():
        assert torch.equal(second[name], value)


def test_how_much_the_roll_matters() -> None:
    """To gates nothing; to samples as the grid is coarse."""
    for kind, changes, most in (("escn_md", {}, 1e-12), ("sampled, fine grid", {}, 1e-3), ("sampled", {}, 0.5)):
        model, call = build(kind, **changes), call_of(structures())
        ends, pos = call["edge_index"], call["pos"]
        of_edge = call["cell"][call["batch"][ends[1]]]
        vectors = pos[ends[0]] - pos[ends[1]] + (call["cell_offsets"][:, None] @ of_edge)[:, 0]
        turn = torch.zeros(len(vectors), 3, 3, dtype=torch.float64)
        turn[:, 1, 1] = 1
        turn[:, 0, 2], turn[:, 2, 0] = 1, -1  # a quarter
        with torch.no_grad():
            plain, rolled = model(**call), model(**call, edge_frames=turn @ blended_frames(vectors))
        off = relative(rolled["energy"], plain["energy"])
        assert off < most
        assert kind == "escn_md" or off > 1e-12


def test_edges_in_any_order_and_atoms_too() -> None:
    """Grouped by structure or not: experts are mixed for the structure that an edge is in."""
    model, call = build("experts"), call_of(structures())
    order, edges = torch.randperm(len(call["pos"])), torch.randperm(call["edge_index"].shape[1])
    place = order.argsort()
    moved = call | {name: call[name][order] for name in ("atomic_numbers", "pos", "batch")}
    moved |= {"edge_index": place[call["edge_index"]][:, edges], "cell_offsets": call["cell_offsets"][edges]}
    with torch.no_grad():
        found, wanted = model(**moved), model(**call)
    assert relative(found["energy"], wanted["energy"]) < 1e-12
    assert relative(found["forces"], wanted["forces"][order]) < 1e-10
    assert relative(found["stress"], wanted["stress"]) < 1e-10


@pytest.mark.parametrize("kind", ["escn_md", "experts", "sampled", "one direct head"])
def test_atoms_alone_are_finite(kind: str) -> None:
    alone = {"atomic_numbers": torch.tensor([8]), "pos": torch.zeros(1, 3, dtype=torch.float64), "dataset": ["omat"]}
    model = build(kind)
    outputs = model(**alone)
    assert outputs["energy"].isfinite().all()
    assert torch.equal(outputs["forces"], torch.zeros_like(outputs["forces"])) or kind == "one direct head"
    outputs["energy"].sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_float64_throughout_and_nothing_of_the_caller_changes() -> None:
    for kind in ("linear embedding", "positions", "balanced", "experts"):
        model, call = build(kind), call_of(structures())
        call["spin"] = torch.tensor([0, 0, 1, 0])
        before = {name: value.clone() for name, value in call.items() if isinstance(value, Tensor)}
        outputs = model(**call, return_hidden=True)
        hidden = outputs.pop("hidden")
        assert all(value.dtype == torch.float64 for value in (*outputs.values(), *hidden.values()))
        assert all(torch.equal(call[name], value) for name, value in before.items())
        assert not call["pos"].requires_grad


def test_a_mean_is_of_the_energy_alone() -> None:
    mean, total = build("mean"), build("mean", heads={"head": {"module": "MLP_EFS_Head"}})
    call = call_of(structures())
    counts = torch.bincount(call["batch"])
    with torch.no_grad():
        one, other = mean(**call, per_atom=True), total(**call)
    assert relative(one["energy"] * counts, other["energy"]) < 1e-12
    assert relative(one["forces"], other["forces"]) < 1e-12
    added = torch.zeros(4, dtype=torch.float64).index_add(0, call["batch"], one["energies"])
    assert relative(added, one["energy"]) < 1e-12


def test_equivariance() -> None:
    for kind in ("escn_md", "experts"):
        assert_equivariant(build(kind), crystal())
