"""What docs/potentials.md says of torch.compile: which parts compile, and for what."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equiformer_pytorch.atoms import Potential
from tests import shapes
from tests.atoms.kinds import SMALL, build, relative, structures
from tests.atoms.test_door import batch_of
from tests.models import mostly_slow

pytestmark = [
    shapes.compiled,
    # Dynamo looks at .grad of whatever it is given, and torch at its own deprecated parts.
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def with_compiled_layers(kind: str, model: Potential) -> Potential:
    compiled: Any = copy.deepcopy(model)
    layers = {
        "own": lambda: [compiled.network.layers],
        "gradient": lambda: [compiled.blocks],
        "escn_md": lambda: compiled.backbone.blocks,
    }
    for layer in layers[kind]():
        layer.compile(fullgraph=True, backend="aot_eager")
    return compiled


def slopes(model: Callable[..., Any], weights: nn.Module, batch: dict[str, Tensor], name: str) -> list[Tensor]:
    """Of a loss on energies or forces, by all weights."""
    loss = model(**batch, forces=name == "forces", stress=False)[name].square().sum()
    return list(torch.autograd.grad(loss, list(weights.parameters()), materialize_grads=True, allow_unused=True))


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    largest = max(slope.abs().max() for slope in wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() < 1e-10 * largest


@pytest.mark.parametrize("kind", mostly_slow(("own", "gradient", "escn_md"), "own"))
def test_compiled_layers(kind: str) -> None:
    """Energies, forces and training on energies; training on forces that are a gradient is refused by torch."""
    model, batch = build(kind, **SMALL[kind]), batch_of(structures())
    compiled = with_compiled_layers(kind, model)
    wanted = model(**batch)
    with torch.no_grad():
        found = compiled(**batch)
    assert all(relative(found[name], value) < 1e-10 for name, value in wanted.items())
    with torch.inference_mode():
        assert relative(compiled(**batch)["forces"], wanted["forces"]) < 1e-10
    assert_close(slopes(compiled, compiled, batch, "energy"), slopes(model, model, batch, "energy"))
    with pytest.raises(RuntimeError, match=r"create_graph=False|double backward"):
        slopes(compiled, compiled, batch, "forces")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gradient", "escn_md"])
def test_a_whole_published_model_is_one_graph(kind: str) -> None:
    """For all sizes, with forces by gradient in it, and training on these."""
    model, batch = build(kind, **SMALL[kind]), batch_of([*structures(), *structures()[:1]])
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    assert_close(slopes(compiled, model, batch, "forces"), slopes(model, model, batch, "forces"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (batch, batch_of(structures()[:2])):
            found, wanted = (each(**size, forces=True, stress=False) for each in (compiled, model))
            assert all(relative(found[name], value) < 1e-10 for name, value in wanted.items())


@pytest.mark.parametrize("kind", mostly_slow(("own", "experts"), "own"))
def test_a_whole_potential(kind: str) -> None:
    """Not one graph, and right nevertheless."""
    model, batch = build(kind, **SMALL[kind]), batch_of(structures())
    compiled = torch.compile(model, backend="aot_eager")
    found, wanted = compiled(**batch), model(**batch)
    assert all(relative(found[name], value) < 1e-10 for name, value in wanted.items())
    assert_close(slopes(compiled, model, batch, "forces"), slopes(model, model, batch, "forces"))


@pytest.mark.slow
def test_merged_experts_are_one_graph() -> None:
    """What dynamics of a fixed composition runs."""
    (structure, *_) = structures()
    batch = batch_of([structure])
    model: Any = build("experts", **SMALL["experts"])
    merged = model.merged(**structure)
    compiled: Any = torch.compile(merged, fullgraph=True, backend="aot_eager")
    found = compiled(**batch)
    assert all(relative(found[name], value) < 1e-10 for name, value in merged(**batch).items())
