"""eSCN-MD beside numbers of fairchem: shipped ones of every kind of model, and full ones where present."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equiformer_pytorch import ESCNMD
from tests.data.build_published import projections
from tests.escn_md_cases import CASES, FILES, SHIPPED, arguments_of, call_of, structures
from tests.published_cases import fill, loss_of, relative
from tests.tolerances import PUBLISHED

# Gradients that symmetry makes vanish are rounding.
ROUNDING = 1e-12


def close(found: Tensor, expected: Tensor, largest: float = 0.0) -> bool:
    return relative(found, expected) < PUBLISHED or float((found - expected).detach().abs().max()) < ROUNDING * largest


def shuffled(call: dict[str, Any], frames: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The same edges in another order."""
    order = torch.randperm(frames.shape[0])
    edges = {"edge_index": call["edge_index"][:, order], "cell_offsets": call["cell_offsets"][order]}
    return call | edges, frames[order]


@pytest.mark.parametrize("name", CASES)
def test_shipped_numbers(name: str) -> None:
    """Hidden states, every output by its official name, and all gradients, of edges in any order."""
    file = torch.load(SHIPPED, weights_only=True)
    wanted = file["cases"][name]
    model = ESCNMD(**arguments_of(CASES[name])).double().eval()
    fill(model)
    call, frames = shuffled(structures(), file["edge_rot_mat"])
    call = call_of(call)
    given: dict[str, Any] = {k: v.clone() if isinstance(v, Tensor) else list(v) for k, v in call.items()}
    hidden = model(**call, edge_frames=frames, return_hidden=True)["hidden"]
    for key, value in wanted["hidden"].items():
        assert close(projections(hidden[key]), value), key
    outputs = model.official_outputs(**call, edge_frames=frames)
    assert outputs.keys() == wanted["outputs"].keys()
    for key, value in wanted["outputs"].items():
        assert close(outputs[key], value), key
        assert outputs[key].dtype == torch.float64
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(wanted["trained"])
    loss = torch.stack([v.sum() if "energy" in key else v.square().sum() for key, v in outputs.items()]).sum()
    loss.backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    largest = max(float(value.abs().max()) for value in wanted["gradients"].values())
    for key, value in wanted["gradients"].items():
        found = gradients.pop(key, torch.zeros(1, dtype=torch.float64))
        assert close(projections(found), value, largest), key
    assert all(not bool(gradient.any()) for gradient in gradients.values())
    for key, value in call.items():  # nothing of the caller's is changed
        assert torch.equal(given[key], value) if isinstance(value, Tensor) else given[key] == value
        assert not isinstance(value, Tensor) or not value.requires_grad


@pytest.mark.skipif(not FILES["uma"].exists(), reason="the full reference files are not part of the repository")
@pytest.mark.parametrize("name", FILES)
def test_full_numbers(name: str) -> None:
    file = torch.load(FILES[name], weights_only=True)
    model = ESCNMD.from_checkpoint(file)
    call = call_of(file["inputs"])
    outputs = model(**call, edge_frames=file["edge_rot_mat"], return_hidden=True)
    hidden = outputs.pop("hidden")
    assert outputs.keys() == file["outputs"].keys()
    assert hidden.keys() == file["hidden"].keys()
    for key, value in {**file["outputs"], **file["hidden"]}.items():
        assert close({**outputs, **hidden}[key], value), key
    official = model.official_outputs(**call)
    assert official.keys() == file["all_outputs"].keys()
    for key, value in file["all_outputs"].items():
        assert close(official[key], value), key
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(file["trained"])
    assert {*dict(model.named_parameters())} == set(file["parameters"])
    named = list(model.named_parameters())
    for loss, wanted in ((loss_of(outputs), "gradients"), (outputs["energy"].sum(), "gradients_energy")):
        trained = [(n, p) for n, p in named if p.requires_grad]
        found = torch.autograd.grad(
            loss, [p for _, p in trained], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients = {n: gradient for (n, _), gradient in zip(trained, found, strict=True)}
        for key, value in file[wanted].items():
            assert close(gradients[key], value, 1.0), key
