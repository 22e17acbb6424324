"""Parameters moved in one gather are what the functions make of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from equiformer_pytorch.layers import rearranged
from equiformer_pytorch.layers.rearranged import Rearranged
from tests.models import total
from tests.ops.graphs import normal


def transposed(parameters: list[Tensor]) -> list[Tensor]:
    return [parameters[0].mT]


def spaced(parameters: list[Tensor]) -> list[Tensor]:
    """Zeros, and entries more than once."""
    return [torch.block_diag(*parameters, parameters[0]), parameters[1].repeat(1, 2)]


def complex_one(parameters: list[Tensor]) -> list[Tensor]:
    """Negatives and zeros."""
    u, v = parameters
    return [torch.block_diag(torch.cat((torch.cat((u, v), dim=1), torch.cat((-v, u), dim=1))), u)]


def partly(parameters: list[Tensor]) -> list[Tensor]:
    """Entries that are left out, and a matrix without entries."""
    return [parameters[0][:1], parameters[0][:0], parameters[1].flatten()]


PARTS = {
    "moved": [transposed],
    "zeros": [spaced],
    "negatives": [complex_one],
    "left out": [partly],
    "all": [complex_one, transposed, spaced, partly],
    "all but negatives": [transposed, spaced, partly],
}


def parts_of(name: str, dtype: torch.dtype = torch.float64) -> list[tuple]:
    return [
        (build, [normal(3, 2, seed=2 * k, dtype=dtype).requires_grad_(), normal(3, 2, seed=2 * k + 1, dtype=dtype)])
        for k, build in enumerate(PARTS[name])
    ]


@pytest.fixture(params=[2**18, 10, 2])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Entries up to which matrices are gathered: all, those of some parts, none."""
    monkeypatch.setattr(rearranged, "LARGEST", request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PARTS)
def test_matrices_are_those_of_the_functions(name: str, dtype: torch.dtype, size: int):
    parts = parts_of(name, dtype)
    module = Rearranged(parts)
    entries = [sum(matrix.numel() for matrix in build(parameters)) for build, parameters in parts]
    assert module.gathered == [place for place, count in enumerate(entries) if count <= size]
    found = module(parts)
    assert len(found) == len(parts)
    for matrices, (build, parameters) in zip(found, parts, strict=True):
        for matrix, wanted in zip(matrices, build(parameters), strict=True):
            assert matrix.dtype == dtype
            assert torch.equal(matrix, wanted)


@pytest.mark.parametrize("name", PARTS)
def test_gradients_are_those_of_the_functions(name: str, size: int):
    """Of two orders; each entry counts as often as it is there."""
    parts = parts_of(name)
    module, leaves = Rearranged(parts), [x.requires_grad_() for _, parameters in parts for x in parameters]
    orders = []
    for made in (module(parts), [build(parameters) for build, parameters in parts]):
        loss = total((matrix * normal(*matrix.shape)).sin().sum() for matrices in made for matrix in matrices)
        first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        second = torch.autograd.grad(
            total(x.square().sum() for x in first), leaves, materialize_grads=True, allow_unused=True
        )
        orders.append([*first, *second])
    for found, wanted in zip(*orders, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_it_takes_the_parameters_of_the_moment():
    parts = parts_of("all")
    module = Rearranged(parts)
    others = [(build, [x.detach().cos() for x in parameters]) for build, parameters in parts]
    for matrices, (build, parameters) in zip(module(others), others, strict=True):
        for matrix, wanted in zip(matrices, build(parameters), strict=True):
            assert torch.equal(matrix, wanted)


def test_nothing_of_it_is_saved_or_cast():
    parts = parts_of("all")
    module = Rearranged(parts)
    assert not module.state_dict()
    assert not list(module.parameters())
    wanted = module(parts)
    for moved in (module.half().double(), copy.deepcopy(module), module.to("meta").to_empty(device="cpu")):
        for found, exact in zip(moved(parts), wanted, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, exact, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.unchecked
def test_compilers_and_transforms_see_through_it(size: int):
    parts = parts_of("all")
    module = Rearranged(parts)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rearranged = module

        def forward(self, x: Tensor) -> Tensor:
            made = self.rearranged([(build, [x, *rest]) for build, (_, *rest) in parts])
            return torch.cat([matrix.flatten() for matrices in made for matrix in matrices])

    layer, x = Layer(), normal(3, 2, seed=9)
    plain = layer(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), plain)
    torch._dynamo.reset()
    assert torch.equal(torch.export.export(layer, (x,), strict=False).module()(x), plain)
    both = torch.stack([x, x.sin()])
    torch.testing.assert_close(torch.func.vmap(layer)(both), torch.stack([plain, layer(x.sin())]))
