"""Every family of potentials does the same through one interface, and one more is added without touching another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

pytest.importorskip("ase")
from ase import Atoms

from equiformer_pytorch import ESCNMD, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms import (
    EquiformerCalculator,
    Potential,
    collate_structures,
    element_energies,
    gives_stress,
    load,
    load_potential,
    predict,
    radius_graph,
    refit_references,
)
from equiformer_pytorch.base.saved import read_saved
from tests import escn_md_cases, published_cases
from tests.atoms import potentials
from tests.atoms.kinds import CONSERVATIVE, KINDS, build, relative, structures

# What is only given where it is asked for.
PARTS = {"energies", "stresses"}


def batch_of(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    found = []
    for item in items:
        edge_index, offsets = radius_graph(item["pos"], potentials.CUTOFF, cell=item["cell"])
        graph = {"edge_index": edge_index, "cell_offsets": offsets, "pbc": torch.ones(3, dtype=torch.bool)}
        found.append({**item, **graph, "cell": item["cell"][0]})
    return collate_structures(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_outputs(kind: str) -> None:
    model, batch = build(kind), batch_of(structures())
    assert isinstance(model, Potential)
    stress = kind != "v2"
    main = {"energy", "forces", *["stress"] * stress, *["charges"] * (kind == "own")}
    assert model.gives == main
    assert model.parts == (PARTS if kind in CONSERVATIVE else {"energies"})
    assert set(potentials.SPECIES) <= set(model.elements)
    assert (model.cutoff, model.use_pbc) == (potentials.CUTOFF, True)
    out = model.evaluate(batch, stress=stress)
    assert set(out) == main
    assert (out["energy"].shape, out["energy"].dtype) == ((3,), torch.float64)
    assert out["forces"].shape == batch["pos"].shape
    if stress:
        assert out["stress"].shape == (3, 3, 3)
    assert set(model.evaluate(batch, forces=False)) == main - {"forces", "stress"}
    found = model.evaluate({name: batch[name] for name in ("atomic_numbers", "pos", "batch", "cell")})
    assert relative(found["energy"], out["energy"]) < 1e-12
    assert relative(found["forces"], out["forces"]) < 1e-10
    assert model.float().evaluate(batch)["energy"].dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_published_calls_are_as_they_were(kind: str) -> None:
    if kind != "own":
        model: Any = build(kind)
        batch = batch_of(structures())
        del batch["pbc"]
        out, physical = model(**batch), model.predict(**batch)
        assert out["energy"].dtype == batch["pos"].dtype
        assert set(out) == model.gives == set(physical)
        if "stress" in out:
            assert out["stress"].shape == physical["stress"].shape == (3, 9)
            assert set(model(**batch, stress=False)) == {"energy", "forces"}
        assert set(model(**batch, forces=False, stress=False)) == {"energy"}
        evaluated = model.evaluate(batch, stress="stress" in out)
        for name, value in physical.items():
            assert torch.equal(evaluated[name].view_as(value), value)


@pytest.mark.parametrize("kind", KINDS)
def test_stress_that_cannot_be(kind: str) -> None:
    model, batch = build(kind), batch_of(structures()[1:2])
    assert gives_stress(model) == (kind != "v2")
    flat = {**batch, "cell": torch.zeros_like(batch["cell"]), "cell_offsets": torch.zeros_like(batch["cell_offsets"])}
    words = "the model gives none" if kind == "v2" else "cell must have a volume"
    with pytest.raises(ValueError, match=words):
        predict(model, flat, stress=True)
    assert set(predict(model, flat)) == model.gives - {"stress"}
    del flat["cell"], flat["cell_offsets"]
    with pytest.raises(ValueError, match="the model gives none" if kind == "v2" else "stress needs cell"):
        predict(model, flat, stress=True)
    assert predict(model, flat)["energy"].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_atoms_add_up(kind: str) -> None:
    """Of energies with everything that belongs to them, and of a stress that is a gradient."""
    model, batch = build(kind), batch_of(structures())
    conservative = kind in CONSERVATIVE
    out = model.evaluate(batch, stress=conservative, per_atom=True)
    assert (out["energies"].shape, out["energies"].dtype) == (batch["atomic_numbers"].shape, torch.float64)
    added = torch.zeros(3, dtype=torch.float64).index_add(0, batch["batch"], out["energies"])
    assert relative(added, out["energy"]) < 1e-12
    assert ("stresses" in out) == conservative
    if conservative:
        added = torch.zeros(3, 3, 3, dtype=torch.float64).index_add(0, batch["batch"], out["stresses"])
        assert relative(added, out["stress"]) < 1e-10
    order = torch.randperm(len(batch["pos"]))
    moved = {name: batch[name][order] for name in ("atomic_numbers", "pos", "batch")} | {"cell": batch["cell"]}
    other = model.evaluate(moved, stress=conservative, per_atom=True)
    for name in PARTS & set(out):
        assert relative(other[name], out[name][order]) < 1e-10
    if isinstance(model, EquiformerV2 | EquiformerV3 | ESCNMD):
        assert relative(model.predict(**moved, per_atom=True)["energies"], out["energies"][order]) < 1e-10
    assert set(model.evaluate(batch, forces=False, per_atom=True)) & PARTS == {"energies"}


@pytest.mark.parametrize("kind", KINDS)
def test_reference_energies(kind: str) -> None:
    model, batch = build(kind), batch_of(structures())
    before, old = model.evaluate(batch), element_energies(model)
    assert (old.shape, old.dtype) == ((119,), torch.float64)
    shift = torch.zeros(119, dtype=torch.float64)
    shift[[1, 6, 8]] = torch.tensor([-13.5, 2.0, -1000.0], dtype=torch.float64)
    model.shift_element_energies(shift)
    assert torch.equal(element_energies(model)[[1, 6, 8]], (old + shift)[[1, 6, 8]])
    after = model.evaluate(batch)
    added = torch.zeros(3, dtype=torch.float64).index_add(0, batch["batch"], shift[batch["atomic_numbers"]])
    assert relative(after["energy"] - before["energy"], added) < 1e-12
    assert torch.equal(after["forces"], before["forces"])


@pytest.mark.filterwarnings("ignore:Grad strides do not match")
@pytest.mark.parametrize("kind", KINDS)
def test_through_distributed_data_parallel(kind: str, tmp_path: Path) -> None:
    model, batch = build(kind), batch_of(structures())
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        out = predict(wrapped, batch)
        (out["energy"].sum() + out["forces"].square().sum()).backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, value in predict(model, batch).items():
        assert torch.equal(out[name], value)
    assert any(parameter.grad is not None for parameter in model.parameters())


SALT = {
    "atomic_numbers": torch.tensor([11, 17]),
    "pos": torch.tensor([[0.0, 0.0, 0.0], [2.3, 0.0, 0.0]], dtype=torch.float64),
    "cell": 2.3 * (1 - torch.eye(3, dtype=torch.float64))[None],
    "batch": torch.zeros(2, dtype=torch.long),
}
"""Rock salt: shells of 6 and 12 neighbours at 2.3 and 3.25 Å."""


@pytest.mark.parametrize(
    ("kind", "strict"),
    [*((kind, strict) for kind in ("v2", "v3", "gradient") for strict in (False, True, None)), ("escn_md", None)],
)
def test_shells_are_kept_whole_where_the_published_model_keeps_them(kind: str, strict: bool | None) -> None:
    """eSCN-MD always, the others where they are told so (None: the default)."""
    if kind == "escn_md":
        model = escn_md_cases.build(cutoff=3.5, max_neighbors=8)
    else:
        options = {} if strict is None else {"enforce_max_neighbors_strictly": strict}
        model = published_cases.build(kind, max_radius=3.5, max_neighbors=8, **options)
    whole = kind == "escn_md" or strict is False
    given = {name: SALT[name] for name in ("pos", "cell", "batch")}
    index, offsets = radius_graph(**given, cutoff=3.5, max_neighbors=8, strict_neighbors=not whole)
    assert torch.bincount(index[1]).tolist() == ([18, 18] if whole else [8, 8])
    found = model.evaluate(SALT)
    exact = model.evaluate({**SALT, "edge_index": index, "cell_offsets": offsets})
    assert relative(found["energy"], exact["energy"]) < 1e-12
    model.strict_neighbors = whole
    assert relative(model.evaluate(SALT)["energy"], exact["energy"]) > 1e-6


def test_a_stress_head_is_left_out() -> None:
    for kind in KINDS:
        model = build(kind)
        model.leave_out_stress_head()
        assert ("stress" in model.gives) == (kind in CONSERVATIVE)
        assert type(model)(**model.config).gives == model.gives


class Springs(Potential):
    """Another family: E = k/2 · Σ |r|² over edges, and nothing else."""

    family = "Springs"

    def __init__(self, cutoff: float = 3.0) -> None:
        super().__init__()
        self.config, self.cutoff, self.max_neighbors = {"cutoff": cutoff}, cutoff, None
        self.k = nn.Parameter(torch.ones((), dtype=torch.float64))

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(range(1, 119))

    @property
    def gives(self) -> frozenset[str]:
        return frozenset(("energy", "forces"))

    def forward(self, pos: Tensor, edge_index: Tensor, batch: Tensor) -> dict[str, Tensor]:
        senders, receivers = edge_index
        vectors = pos[senders] - pos[receivers]
        of_edge = self.k / 2 * vectors.square().sum(1)
        energy = of_edge.new_zeros(int(batch.max()) + 1).index_add(0, batch[receivers], of_edge)
        return {"energy": energy, "forces": torch.zeros_like(pos).index_add(0, receivers, 2 * self.k * vectors)}

    def evaluate(self, structures: Mapping[str, Any], *, through=None, **wanted: bool) -> dict[str, Tensor]:
        batch = structures.get("batch", torch.zeros_like(structures["atomic_numbers"]))
        return (through or self)(structures["pos"], structures["edge_index"], batch)

    def element_energies(self) -> Tensor:
        return torch.zeros(119, dtype=torch.float64)

    def shift_element_energies(self, shift: Tensor) -> None:
        self.shifted = shift

    @classmethod
    def from_checkpoint(cls, source: Any) -> Springs:
        contents = read_saved(source)
        if "config" not in contents:
            raise ValueError("config is missing")
        model = cls(**contents["config"])
        model.load_state_dict(contents["state_dict"])
        return model

    @classmethod
    def recognises(cls, weights: Mapping[str, Tensor]) -> bool:
        return set(weights) == {"k"}


@pytest.fixture
def springs(monkeypatch: pytest.MonkeyPatch) -> Springs:
    module = ModuleType("springs")
    module.Springs = Springs  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "springs", module)
    monkeypatch.setitem(load.FAMILIES, "Springs", "springs")
    model = Springs(2.0)
    model.k.data.fill_(3.0)
    return model


def test_one_more_family(springs: Springs, tmp_path: Path) -> None:
    """One line in the table: files, calculator and training know it."""
    springs.save(tmp_path / "springs.pt")
    foreign = {"state_dict": {"module.k": springs.k.data}}
    for source in (tmp_path / "springs.pt", read_saved(tmp_path / "springs.pt")):
        again = load_potential(source)
        assert type(again) is Springs
        assert (again.k.item(), again.cutoff, again.training) == (3.0, 2.0, False)
    with pytest.raises(ValueError, match="source does not fit Springs: config is missing"):
        load_potential(foreign)
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1.0]], calculator=EquiformerCalculator(springs, skin=0.0))
    assert atoms.get_potential_energy() == pytest.approx(3.0)
    assert atoms.get_forces()[0, 2] == pytest.approx(6.0)
    assert "stress" not in atoms.calc.implemented_properties
    batch = batch_of([potentials.crystal(0)])
    items = [{**batch, "cell": batch["cell"][0], "pbc": batch["pbc"][0], "energy": torch.tensor(1.0)}]
    refit_references(springs, items)
    assert springs.shifted[[1, 6, 8]].abs().min() > 0
    springs.save(tmp_path / "unknown.pt")
    del load.FAMILIES["Springs"]
    with pytest.raises(ValueError, match=r"unknown\.pt holds none of EquiformerPotential"):
        load_potential(tmp_path / "unknown.pt")
