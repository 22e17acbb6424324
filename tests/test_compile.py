"""The layer stack compiles as one graph, and computes the same."""

import pytest
import torch

from equiformer_pytorch.graph.edges import EdgeGraph
from tests import shapes
from tests.models import KINDS, build, example, mostly_slow

# Dynamo looks at .grad of whatever it is given.
pytestmark = [shapes.compiled, pytest.mark.filterwarnings("ignore:The .grad attribute")]

COMPILED = ["l2", "mlp", "l2-radius", "mlp-linear-heads", "l2-reflection"]


def stack_and_inputs(kind: str, batch: int = 2, points: int = 7):
    """The blocks of a model, and what its forward pass hands them."""
    model = build(**KINDS[kind])
    given = example(model, batch=batch, points=points)
    handed = []
    hook = model.layers.register_forward_pre_hook(lambda module, arguments: handed.append(arguments))
    model(given.inputs, given.coors, **given.extra)
    hook.remove()
    x, graph, *_ = handed[0]
    return model.layers, x.detach(), graph


def gradients(function, layers: torch.nn.Module, x: torch.Tensor, graph: EdgeGraph) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = function(x, graph)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), [x, *layers.parameters()])]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", mostly_slow(COMPILED, "mlp"))
def test_layer_stack_is_one_graph(kind):
    layers, x, graph = stack_and_inputs(kind)
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    plain, traced = gradients(layers, layers, x, graph), gradients(compiled, layers, x, graph)
    assert len(plain) == len(traced) > 10
    for one, other in zip(plain, traced, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_other_sizes_run_through_the_compiled_stack():
    layers, x, graph = stack_and_inputs("l2")
    compiled = torch.compile(layers, fullgraph=True, backend="eager", dynamic=True)
    compiled(x, graph)
    _, x, graph = stack_and_inputs("l2", batch=1, points=12)
    assert torch.allclose(compiled(x, graph), layers(x, graph), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_whole_model_compiles():
    model = build(**KINDS["l2"])
    given = example(model, batch=2, points=6)
    compiled = torch.compile(model, backend="eager")
    for one, other in zip(model(given.inputs, given.coors), compiled(given.inputs, given.coors), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
