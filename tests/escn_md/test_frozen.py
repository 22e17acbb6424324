"""Where nothing is recorded, messages are made in pieces of edges: the same numbers."""

import pytest
import torch

from equiformer_pytorch.ops import messages
from tests.escn_md_cases import build, call_of, structures
from tests.published_cases import relative
from tests.tolerances import SAME_GRADIENT, SAME_VALUE

KINDS = ["escn_md", "experts", "degree 3, order 0", "degree 3, order 1", "degree 4, order 2, grid"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edges", [3, 10_000])
def test_the_same_outputs(kind: str, edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies, forces and stress beside those of the operations one by one, which are recorded."""
    monkeypatch.setattr(messages, "LEAST_EDGES", edges)
    monkeypatch.setattr(messages, "PIECE", 1)
    model, call = build(kind), call_of(structures())
    wanted = model(**call, per_atom=True)
    for parameters in (True, False):
        model.requires_grad_(parameters)
        with torch.no_grad():
            found = model(**call, per_atom=True)
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert relative(value, wanted[name]) < SAME_GRADIENT[torch.float64], name
        with torch.no_grad():
            energy = model(**call, forces=False, stress=False)["energy"]
        assert relative(energy, wanted["energy"]) < SAME_VALUE


def test_only_first_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one is an error, not a wrong number."""
    made = []
    plain = messages._Messages.apply

    def noted(*given: object) -> object:
        made.append(given)
        return plain(*given)

    monkeypatch.setattr(messages._Messages, "apply", noted)
    model, call = build(), call_of(structures())
    model(**call)
    assert not made
    with torch.no_grad():
        model(**call)
    assert len(made) == len(model.backbone.blocks)
    plan, x, radial, rotation, envelope = (
        t.detach().requires_grad_() if isinstance(t, torch.Tensor) else t for t in made[0]
    )
    summed = plain(plan, x, radial, rotation, envelope).square().sum()
    slopes = torch.autograd.grad(summed, (x, radial, rotation, envelope), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slopes[0].sum().backward()
