"""`torch.export` with any number of points and edges: one program, the numbers and gradients of the model."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim, export
from torch.utils._pytree import tree_leaves

from equiformer_pytorch import Equiformer
from tests import tolerances
from tests.models import KINDS, build, mostly_slow, squares

pytestmark = [
    pytest.mark.unchecked,
    pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="symbolic sizes take a newer torch"),
    # torch.export looks at .grad of whatever it is given, and at its own deprecated parts.
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def flat_call(model: Equiformer, points: int, edges: int, structures: int, *, cell: bool = False) -> dict[str, Any]:
    """Random graphs: batch and edges in no order."""
    g = torch.Generator().manual_seed(points)
    batch = torch.cat(
        (torch.arange(structures).repeat(2).flip(0), torch.randint(0, structures, (points,), generator=g))
    )
    batch = batch[:points]
    pairs = ((batch[:, None] == batch) & ~torch.eye(points, dtype=torch.bool)).nonzero()
    pairs = pairs[torch.randperm(len(pairs), generator=g)[:edges]].T

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    call = {"inputs": normal(points, 5), "coors": normal(points, 3), "batch": batch, "edge_index": pairs}
    if model.edge_features.edges is not None:
        call["edge_attr"] = torch.randint(0, 4, pairs.shape[1:], generator=g)
    if cell:
        call["cell"] = normal(structures, 3, 3)
        call["cell_offsets"] = torch.randint(-1, 2, (pairs.shape[1], 3), generator=g)
    return call


def exported(model: Equiformer, call: dict[str, Any], flags: dict[str, bool]) -> torch.export.ExportedProgram:
    points, edges = {0: Dim("points")}, {0: Dim("edges")}
    sizes = {"inputs": points, "coors": points, "batch": points, "edge_index": {1: edges[0]}, "edge_attr": edges}
    sizes |= {"cell": {0: Dim("structures")}, "cell_offsets": edges}
    dynamic_shapes = {name: sizes.get(name) for name in (*call, *flags)}
    return export(model, (), {**call, **flags}, dynamic_shapes=dynamic_shapes, strict=False)


def outputs_and_gradients(module: torch.nn.Module, call: dict[str, Any], flags: dict[str, bool]) -> dict[str, Tensor]:
    call = {**call, "coors": call["coors"].clone().requires_grad_()}
    found = {str(i): x for i, x in enumerate(tree_leaves(module(**call, **flags)))}
    loss = squares({name: x for name, x in found.items() if x.requires_grad})
    leaves = {"coors": call["coors"], **dict(module.named_parameters())}
    return {**found, **dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))}


def assert_same_program(program: torch.nn.Module, model: Equiformer, call: dict[str, Any], flags: dict) -> None:
    expected = outputs_and_gradients(model, call, flags)
    actual = outputs_and_gradients(program, call, flags)
    assert actual.keys() == expected.keys()
    scale = max(x.abs().max().item() for x in expected.values())
    for name, x in expected.items():
        assert actual[name].shape == x.shape
        assert (actual[name] - x).abs().max() <= tolerances.SAME_GRADIENT[torch.float64] * scale
        assert len(call["coors"]) < 30 or name != "coors" or x.abs().max() > 1e-3


CASES = {
    "l2": ({}, {}),
    "mlp": (KINDS["mlp"], {"return_attn": True}),
    "pooled": (KINDS["mlp-linear-heads"], {"return_pooled": True, "return_all_degrees": True}),
    "bonds": (KINDS["mlp-bonds"], {}),
    "radius, no self": (KINDS["l2-radius"], {}),
    "cell": ({"valid_radius": 4.0, "num_positions": 50}, {"return_pooled": True}),
    "reversible": (KINDS["l2-reversible"], {}),
}


@pytest.mark.parametrize("case", mostly_slow(CASES, "l2"))
def test_other_sizes_than_the_exported_one(case):
    options, flags = CASES[case]
    # Layers are written out one after the other; two of them where that matters.
    model, cell = build(depth=2 if case in ("l2", "reversible") else 1, **options), case == "cell"
    program = exported(model, flat_call(model, 7, 12, 2, cell=cell), flags).module()
    for points, edges, structures in ((7, 12, 2), (6, 3, 3), (40, 300, 3), (5, 20, 1)):
        assert_same_program(program, model, flat_call(model, points, edges, structures, cell=cell), flags)


@pytest.mark.slow
def test_structures_stay_apart_in_the_program():
    """NaN in one does not reach a point without edges in another."""
    model = build()
    program = exported(model, flat_call(model, 7, 12, 2), {}).module()
    call = flat_call(model, 9, 20, 2)
    call["inputs"][call["batch"] == 1] = float("nan")
    lone = int((call["batch"] == 0).nonzero()[0])
    call["edge_index"] = call["edge_index"][:, call["edge_index"][1] != lone]
    for out in program(**call):
        assert out[call["batch"] == 0].isfinite().all()


@pytest.mark.slow
def test_one_structure_without_batch_kept_on_disk():
    """Return is a named tuple, which torch does not keep on disk; a dict by degree it does."""
    model, flags = build(), {"return_all_degrees": True}
    call = flat_call(model, 7, 12, 1)
    del call["batch"]
    file = io.BytesIO()
    torch.export.save(exported(model, call, flags), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for points, edges in ((7, 12), (30, 200)):
        call = flat_call(model, points, edges, 1)
        del call["batch"]
        assert_same_program(program, model, call, flags)


def test_neighbours_cannot_be_looked_for():
    model = build()
    call = flat_call(model, 7, 12, 1)
    del call["edge_index"]
    with pytest.raises(ValueError, match="edge_index is missing: an exported program"):
        exported(model, call, {})
    assert model(**call).type0.isfinite().all()


@pytest.mark.slow
def test_checks_are_back_after_export():
    model = build()
    call = flat_call(model, 7, 12, 2)
    exported(model, call, {})
    with pytest.raises(ValueError, match="edge_index"):
        model(**{**call, "edge_index": call["edge_index"] + 7})
