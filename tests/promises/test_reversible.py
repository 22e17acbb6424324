"""Promise 2: with reversible=True first-order gradients are those of the plain recurrence; second order is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from equiformer_pytorch import Equiformer
from tests import tolerances
from tests.models import Example, build, example, grad_of, relative, squares

OPTIONS = {
    "l2": {},
    "mlp": {"l2_dist_attention": False},
    "all degrees out": {"output_degrees": 3, "edge_dim": 3},
    "one degree out": {"output_degrees": 1, "num_linear_attn_heads": 2, "valid_radius": 2.0, "attend_self": False},
    "tokens": {"num_tokens": 5, "num_edge_tokens": 4, "edge_dim": 2, "l2_dist_attention": False},
    "adjacency": {"attend_sparse_neighbors": True, "num_neighbors": 2, "num_adj_degrees_embed": 2, "adj_dim": 2},
}


class PlainRecurrence(nn.Module):
    """The same two streams, left to autograd."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks: Any = blocks

    def parts(self) -> list:
        return []

    def forward(self, x, graph, matrices, weights=None):
        x1 = x2 = x
        for attention, feed_forward in self.blocks:
            y, layer_weights = attention(x2, graph)
            if weights is not None:
                weights.append(layer_weights)
            x1 = x1[:, : y.shape[1]] + y
            x2 = x2[:, : y.shape[1]] + feed_forward(x1)
        return (x1 + x2) / 2


def without_reversing(model: Equiformer) -> Equiformer:
    """A copy that autograd records."""
    plain: Any = copy.deepcopy(model)
    plain.layers = PlainRecurrence(plain.layers.blocks)
    return plain


def pair(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Equiformer, Equiformer]:
    reversible = build(dtype, **{"depth": 3, "output_degrees": 2, "reversible": True, **options})
    return reversible, without_reversing(reversible)


def loss_of(model: Equiformer, sample: Example) -> torch.Tensor:
    out = sample.all_degrees(model).values()
    parts = [(x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in out]
    return torch.stack(parts).sum()


def leaves(model, sample) -> dict[str, torch.Tensor]:
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    candidates = {"coors": sample.coors, "edges": sample.extra.get("edges"), "inputs": sample.inputs}
    found.update({name: x for name, x in candidates.items() if x is not None and x.requires_grad})
    return found


def fresh(model, dtype=torch.float64, frozen: bool = False):
    sample = example(model, points=6).to(dtype)
    if not frozen:
        for x in (sample.coors, sample.inputs, sample.extra.get("edges")):
            if x is not None and x.is_floating_point():
                x.requires_grad_()
    return sample


def gradients(model, sample, how: str) -> dict[str, torch.Tensor]:
    wanted = leaves(model, sample)
    loss = loss_of(model, sample)
    if how == "grad":
        return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    loss.backward()
    return {name: grad_of(x) for name, x in wanted.items()}


def assert_same(one: dict, two: dict, tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name, wanted in two.items():
        assert one[name] is not None, name
        assert wanted.abs().max() > 0, name
        assert relative(one[name], wanted) <= tolerance, name


@pytest.mark.parametrize("how", ["backward", "grad"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_same_gradients(options, training, how):
    for dtype in (torch.float64, torch.float32) if training else (torch.float64,):
        models = pair(dtype, **OPTIONS[options])
        results = []
        for model in models:
            model.train(training)
            results.append(gradients(model, fresh(model, dtype), how))
        assert "coors" in results[0]
        # Activations are recomputed by subtraction, so rounding comes back.
        assert_same(results[0], results[1], tolerances.SAME_GRADIENT[dtype] * 10)


def test_same_values():
    for options in OPTIONS.values():
        reversible, plain = pair(**options)
        sample = fresh(reversible)
        expected = sample.all_degrees(plain)
        for degree, x in sample.all_degrees(reversible).items():
            assert relative(x, expected[degree]) <= tolerances.SAME_VALUE


@pytest.mark.parametrize("how", ["backward", "grad"])
def test_frozen_input(how):
    results = [gradients(m, fresh(m, frozen=True), how) for m in pair()]
    assert "coors" not in results[0]
    assert_same(results[0], results[1], tolerances.SAME_GRADIENT[torch.float64])


def test_frozen_parameters():
    """Only some parameters, or only the coordinates, are to be learned."""
    for pattern in ("layers.blocks.1.", "layers.blocks.0.1.", "radial", "nothing"):
        models = pair()
        for model in models:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(pattern))
        results = [gradients(m, fresh(m), "grad") for m in models]
        assert_same(results[0], results[1], tolerances.SAME_GRADIENT[torch.float64])


def test_under_autocast():
    results = []
    for model in pair(torch.float32, output_degrees=3):
        sample = fresh(model, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, sample)
        loss.backward()  # outside of autocast, as is usual; the recomputation must be inside
        results.append({name: grad_of(x) for name, x in leaves(model, sample).items()})
    total = torch.cat([x.flatten() for x in results[1].values()]).norm()
    for name, wanted in results[1].items():
        assert (results[0][name] - wanted).norm() <= tolerances.SAME_GRADIENT_AUTOCAST * (wanted.norm() + 0.03 * total)


def test_gradients_accumulate():
    model, _ = pair()
    sample = fresh(model)
    once = {name: x.clone() for name, x in gradients(model, sample, "backward").items()}
    twice = gradients(model, sample, "backward")
    for name, x in once.items():
        assert relative(twice[name], 2 * x) <= tolerances.SAME_VALUE, name


def test_torch_checkpoint_style_use_under_no_grad():
    model, plain = pair()
    sample = fresh(model)
    with torch.no_grad():
        assert not loss_of(model, sample).requires_grad
    with torch.inference_mode():
        assert relative(loss_of(model, sample), loss_of(plain, sample).detach()) < 1e-10


@pytest.mark.parametrize("output_degrees", [2, 3])
def test_second_order_is_refused(output_degrees):
    model, _ = pair(output_degrees=output_degrees)
    sample = fresh(model)
    (force,) = torch.autograd.grad(loss_of(model, sample), sample.coors, create_graph=True)
    for first in (force.square().sum(), force.sum()):
        with pytest.raises(RuntimeError, match="reversible"):
            torch.autograd.grad(first, list(model.parameters()), retain_graph=True, allow_unused=True)
        with pytest.raises(RuntimeError, match="reversible"):
            torch.autograd.grad(first, sample.coors, retain_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match="reversible"):
        force.square().sum().backward()


def test_second_order_through_parameter_gradients_is_refused():
    model, _ = pair()
    sample = fresh(model, frozen=True)
    parameters = list(model.layers.parameters())
    grads = torch.autograd.grad(loss_of(model, sample), parameters, create_graph=True)
    with pytest.raises(RuntimeError, match="reversible"):
        squares(dict(enumerate(grads))).backward()


def test_memory_does_not_grow_with_depth():
    """Bytes that autograd keeps for the backward pass."""

    def kept(**options) -> int:
        model = build(**options)
        sample = fresh(model)
        known = {p.data_ptr() for p in model.parameters()}
        stored: dict[int, int] = {}

        def pack(x):
            if x.data_ptr() not in known:
                stored[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss_of(model, sample)
        return sum(stored.values())

    same = {"output_degrees": 3}
    assert kept(depth=6, reversible=True, **same) <= kept(depth=2, reversible=True, **same) * 1.02
    assert kept(depth=6, **same) > 2 * kept(depth=2, **same)


def test_deep_and_trained_for_some_steps():
    """Gradients stay right at depth, and training brings the loss down."""
    model, plain = pair(depth=12, dim=(4, 4, 2), num_tokens=4, noise=0.0)
    assert_same(gradients(model, fresh(model), "grad"), gradients(plain, fresh(plain), "grad"), 1e-8)
    model = build(torch.float32, depth=12, dim=(4, 4, 2), num_tokens=4, noise=0.0, reversible=True, output_degrees=2)
    sample = fresh(model, torch.float32, frozen=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = (model(sample.inputs, sample.coors).type1[:, :, 0] - sample.coors).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
