"""One door for all families: any order of atoms and edges, PyG's cells, the same refusals, one wait for the device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.counts import counted
from equiformer_pytorch import unchecked_values
from equiformer_pytorch.atoms import radius_graph
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, build, relative, structures


def batch_of(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Flat, with edges, structure after structure."""
    batch = potentials.together(items)
    edge_index, offsets = radius_graph(batch["pos"], potentials.CUTOFF, batch=batch["batch"], cell=batch["cell"])
    return {**batch, "edge_index": edge_index, "cell_offsets": offsets}


def shuffled(batch: dict[str, Tensor], seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Atoms and edges in another order; and which atom is where."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(batch["pos"]), generator=generator)
    edges = torch.randperm(batch["edge_index"].shape[1], generator=generator)
    of_atoms = {name: batch[name][order] for name in ("atomic_numbers", "pos", "batch")}
    found = {**batch, **of_atoms, "edge_index": order.argsort()[batch["edge_index"]][:, edges]}
    return {**found, "cell_offsets": batch["cell_offsets"][edges]}, order


@pytest.mark.parametrize("given", [True, False], ids=["edges", "no edges"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_order(kind: str, given: bool) -> None:
    model, batch = build(kind), batch_of(structures())
    other, order = shuffled(batch)
    assert (other["batch"].diff() < 0).any()
    if not given:
        batch, other = ({n: x for n, x in b.items() if n not in ("edge_index", "cell_offsets")} for b in (batch, other))
    wanted, found = (model(**b, stress=kind != "v2") for b in (batch, other))
    for name, value in wanted.items():
        value = value[order] if name in ("forces", "charges") else value
        assert relative(found[name], value) < 1e-10, name


@pytest.mark.parametrize("kind", ["v2", "v3", "gradient"])
def test_hidden_features_and_frames_in_any_order(kind: str) -> None:
    model, batch = build(kind), batch_of(structures())
    other, order = shuffled(batch)
    wanted, found = model(**batch, return_hidden=True), model(**other, return_hidden=True)
    for name, value in wanted["hidden"].items():
        assert relative(found["hidden"][name], value[order]) < 1e-10, name
    senders, receivers = other["edge_index"]
    cells = other["cell"][other["batch"][receivers]]
    y = other["pos"][senders] + (other["cell_offsets"].double()[:, None] @ cells).squeeze(1) - other["pos"][receivers]
    y = torch.nn.functional.normalize(y, dim=1)
    x = torch.nn.functional.normalize(torch.linalg.cross(y, torch.randn_like(y)), dim=1)
    frames = torch.stack((x, y, torch.linalg.cross(x, y)), dim=1)
    assert relative(model(**other, edge_frames=frames)["energy"], wanted["energy"]) < (1e-2 if kind == "v2" else 1e-10)
    with pytest.raises(ValueError, match="edge_frames"):
        model(**other, edge_frames=frames.flip(0))


@pytest.mark.parametrize("kind", KINDS)
def test_cells_and_periodicity_as_pyg_puts_them_together(kind: str) -> None:
    model, batch = build(kind), batch_of(structures())
    wanted = model(**batch)
    assert torch.equal(model(**{**batch, "cell": batch["cell"].flatten(0, 1)})["energy"], wanted["energy"])
    bare = {name: x for name, x in batch.items() if name not in ("edge_index", "cell_offsets")}
    for pbc in (torch.ones(3, 3, dtype=torch.bool), torch.ones(9), torch.ones(3), True):
        assert relative(model(**bare, pbc=pbc)["energy"], wanted["energy"]) < 1e-12
    with pytest.raises(ValueError, match="pbc must have shape"):
        model(**bare, pbc=torch.ones(4))
    open_axes = torch.tensor([[True, True, False], [False] * 3, [True] * 3])
    once = model(**bare, pbc=open_axes)["energy"]
    assert torch.equal(model(**bare, pbc=open_axes.flatten())["energy"], once)
    assert relative(once[0], wanted["energy"][0]) > 1e-6


@pytest.mark.parametrize("kind", ["v2", "v3", "gradient"])
def test_objects_say_how_many_structures_they_hold(kind: str) -> None:
    model, batch = build(kind), batch_of(structures()[1:2])
    del batch["cell"], batch["cell_offsets"]
    wanted = model(**batch, stress=False)["energy"]
    assert torch.equal(model(SimpleNamespace(**batch, num_graphs=1), stress=False)["energy"], wanted)
    more = model(SimpleNamespace(**batch, num_graphs=3), stress=False)["energy"]
    assert more.tolist() == [wanted.item(), 0.0, 0.0]
    del batch["batch"]
    assert torch.equal(model(SimpleNamespace(**batch, natoms=torch.tensor([5])), stress=False)["energy"], wanted)
    two = model(SimpleNamespace(**batch, natoms=[5, 0]), stress=False)["energy"]
    assert two.tolist() == [wanted.item(), 0.0]
    with pytest.raises(ValueError, match="natoms must be the numbers of atoms"):
        model(SimpleNamespace(**batch, natoms=torch.tensor([4])))


def bad(**changes: Any) -> dict[str, Any]:
    return changes


REFUSED = {
    "edge_index must not have edges from a point to itself.*point 2": lambda b: bad(
        edge_index=torch.cat((b["edge_index"], torch.tensor([[2], [2]])), 1),
        cell_offsets=torch.cat((b["cell_offsets"], torch.zeros(1, 3, dtype=torch.long))),
    ),
    "edge_index must stay within the structures": lambda b: bad(
        edge_index=torch.cat((b["edge_index"], torch.tensor([[0], [4]])), 1),
        cell_offsets=torch.cat((b["cell_offsets"], torch.zeros(1, 3, dtype=torch.long))),
    ),
    "edge_index must lie in 0 … 10": lambda b: bad(edge_index=b["edge_index"] + 1),
    "edge_index must lie in": lambda b: bad(edge_index=b["edge_index"] - 1),
    "cell_offsets must be whole numbers": lambda b: bad(cell_offsets=b["cell_offsets"] + 0.5),
    "cell_offsets must have shape": lambda b: bad(cell_offsets=b["cell_offsets"][1:]),
    "cell is missing": lambda b: bad(cell=None),
    "cell must be finite": lambda b: bad(cell=b["cell"] * torch.inf),
    "batch must lie in 0 … 2 for 3 structures of cell, got values from 0 to 3": lambda b: bad(
        batch=b["batch"] + (b["batch"] == 2)
    ),
    "batch must lie in 0 … 2": lambda b: bad(batch=b["batch"] - 1),
    "batch is missing": lambda b: bad(batch=None),
    "batch must have shape": lambda b: bad(batch=b["batch"][1:]),
    "batch must be whole numbers": lambda b: bad(batch=b["batch"] + 0.5),
    "pos must be finite for every atom": lambda b: bad(pos=b["pos"].log()),
    "pos must be floating point": lambda b: bad(pos=b["pos"].long()),
    "pos must have shape": lambda b: bad(pos=b["pos"][:, :2]),
    "atomic_numbers must have shape .* of pos": lambda b: bad(atomic_numbers=b["atomic_numbers"][1:]),
    "atomic_numbers": lambda b: bad(atomic_numbers=b["atomic_numbers"] + 90),
    "atomic_numbers must be whole numbers": lambda b: bad(atomic_numbers=b["atomic_numbers"] + 0.25),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_refused_alike(kind: str, words: str) -> None:
    batch = batch_of(structures())
    with pytest.raises((ValueError, TypeError), match=words):
        build(kind)(**{**batch, **REFUSED[words](batch)})


@pytest.mark.parametrize("kind", KINDS)
def test_negative_structures_are_refused_where_nothing_says_their_number(kind: str) -> None:
    batch = potentials.molecule(4)
    with pytest.raises(ValueError, match="batch must be at least 0, got values from -1"):
        build(kind)(**batch, batch=torch.tensor([0, 0, -1, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_of_any_type(kind: str) -> None:
    """PyG's data sets have atomic numbers and offsets as floats, others as small integers."""
    model, batch = build(kind), batch_of(structures())
    wanted = model(**batch)["energy"]
    changed = {"atomic_numbers": batch["atomic_numbers"].float(), "cell_offsets": batch["cell_offsets"].double()}
    assert torch.equal(model(**{**batch, **changed})["energy"], wanted)
    changed = {"atomic_numbers": batch["atomic_numbers"].byte(), "batch": batch["batch"].int()}
    assert torch.equal(model(**{**batch, **changed, "edge_index": batch["edge_index"].int()})["energy"], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_structures(kind: str) -> None:
    """No atom at all, one alone, a structure without atoms between two others."""
    model, molecule = build(kind), potentials.molecule(4)
    stress = {} if kind == "own" else {"stress": False}
    none = model(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.float64)) if kind == "own" else None
    if none is not None:
        assert none["energy"].tolist() == [0.0]
    alone = model(**{name: x[:1] for name, x in molecule.items()}, **stress)
    assert alone["energy"].isfinite().all()
    gap = model(**molecule, batch=torch.tensor([2, 2, 0, 2]), **stress)
    assert gap["energy"].shape == (3,)
    assert gap["energy"][1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_waits(kind: str) -> None:
    """With edges given one for all checks, and none where values are not looked at; a few where edges are found."""
    model, batch = build(kind), batch_of(structures())
    stress = kind != "v2"
    molecule = {**potentials.molecule(3), "edge_index": torch.tensor([[0, 1, 2], [1, 2, 0]])}
    bare = {name: x for name, x in batch.items() if name not in ("edge_index", "cell_offsets")}
    mixing = 2 * (kind == "experts")  # which mixtures there are, and how many edges each is for
    seen = counted(lambda: model(**batch, stress=stress)).waits
    assert seen.total() == 1 + mixing, seen
    seen = counted(lambda: model(**bare, stress=stress)).waits
    assert seen.total() <= 8, seen
    with unchecked_values(most_neighbors=60):
        calls = [lambda: model(**batch, stress=stress), lambda: model(**molecule, stress=False)]
        seen = [counted(call).waits.total() for call in calls]
    assert seen == [mixing, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_unchecked(kind: str) -> None:
    model, batch = build(kind), batch_of(structures())
    other, order = shuffled(batch)
    wanted = model(**batch)
    with unchecked_values():
        found, moved = model(**batch), model(**other)
    for name, value in wanted.items():
        assert relative(found[name], value) < 1e-12
        assert relative(moved[name], value[order] if name in ("forces", "charges") else value) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_is_made_on_the_default_device(kind: str) -> None:
    model, batch = build(kind), batch_of(structures())
    wanted = model(**batch)
    data = {name: x for name, x in batch.items() if name != "batch"}
    other, _ = shuffled(batch)
    with torch.device("meta"):
        found, moved = model(**batch), model(**other)
        evaluated = model.evaluate(batch)
        if kind != "own":
            model(SimpleNamespace(**data, natoms=torch.tensor([3, 5, 3], device="cpu")))
        model.element_energies()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert not any(x.is_meta for x in (*moved.values(), *evaluated.values()))
