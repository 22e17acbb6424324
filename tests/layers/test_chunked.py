"""Edge work in pieces is the same as in one go."""

import pytest
import torch
from torch.func import functional_call, grad

from equiformer_pytorch.layers import chunked
from tests.models import build, example, relative, squares

OPTIONS = {
    "l2": {},
    "mlp": {"l2_dist_attention": False},
    "radius": {"valid_radius": 1.5, "attend_self": False, "l2_dist_attention": False},
    "neighbours": {"num_neighbors": 3},
    "reversible": {"reversible": True},
}


def everything(model, sample) -> dict[str, torch.Tensor]:
    model.zero_grad()
    coors = sample.coors.clone().requires_grad_()
    out, attn = model(sample.inputs, coors, return_all_degrees=True, return_attn=True)
    squares(out).backward()
    found = {f"degree {d}": x.detach() for d, x in out.items()} | {"coors": coors.grad}
    found |= {f"attention {i} {d}": w for i, layer in enumerate(attn) for d, (w, _) in enumerate(layer)}
    return found | {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("largest", [1, 2000, 20000])
@pytest.mark.parametrize("name", OPTIONS)
def test_in_pieces(monkeypatch, name, largest):
    model = build(**OPTIONS[name])
    sample = example(model, points=9)
    whole = everything(model, sample)
    calls = []
    monkeypatch.setattr(chunked, "LARGEST", largest)
    original = chunked.checkpoint
    monkeypatch.setattr(chunked, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    for key, x in everything(model, sample).items():
        assert relative(x, whole[key]) < 1e-9, key
    assert len(calls) > 2 or largest > 2000
    with torch.no_grad():
        for degree, x in sample.all_degrees(model).items():
            assert relative(x, whole[f"degree {degree}"]) < 1e-11


def test_second_order_in_pieces(monkeypatch):
    model = build(depth=1)
    sample = example(model, points=5)

    def second() -> torch.Tensor:
        coors = sample.coors.clone().requires_grad_()
        energy = model(sample.inputs, coors).type0.square().sum()
        (force,) = torch.autograd.grad(energy, coors, create_graph=True)
        return torch.autograd.grad(force.square().sum(), coors)[0]

    whole = second()
    monkeypatch.setattr(chunked, "LARGEST", 1)
    assert relative(second(), whole) < 1e-9


def test_torch_func_in_pieces(monkeypatch):
    """Transforms do not allow recomputation; they get their gradients all the same."""
    model = build(depth=1)
    sample = example(model, points=5)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def energy(coors: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (sample.inputs, coors)).type0.square().sum()

    whole = grad(energy)(sample.coors)
    monkeypatch.setattr(chunked, "LARGEST", 1)
    assert relative(grad(energy)(sample.coors), whole) < 1e-9
