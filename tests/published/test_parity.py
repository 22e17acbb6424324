"""EquiformerV2 and EquiformerV3 beside numbers of the official code: shipped ones, and full ones where present."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.official import _Smearing
from equiformer_pytorch import EquiformerV2, EquiformerV3
from equiformer_pytorch.published.radial import GaussianSmearing
from tests.data.build_published import CASES, projections
from tests.published_cases import PARITY, SHIPPED, fill, loss_of, relative
from tests.tolerances import PUBLISHED

FILES = sorted(PARITY.glob("v[23]_*.pt"))


def model_of(name: str) -> type[EquiformerV2] | type[EquiformerV3]:
    return EquiformerV2 if name.startswith("v2") else EquiformerV3


@pytest.mark.parametrize("name", CASES)
def test_shipped_numbers(name: str):
    file = torch.load(SHIPPED, weights_only=True)
    wanted = file["models"][name]
    model = model_of(name)(**wanted["config"]).double().eval()
    fill(model)
    outputs: dict[str, Any] = model(**file["inputs"], edge_frames=file["edge_rot_mat"], return_hidden=True)
    hidden = outputs.pop("hidden")
    assert outputs.keys() == wanted["outputs"].keys()
    for key, value in wanted["outputs"].items():
        assert relative(outputs[key], value) < PUBLISHED, key
    for key, value in wanted["hidden"].items():
        assert relative(projections(hidden[key]), value) < PUBLISHED, key
    loss_of(outputs).backward()
    gradients = {key: projections(p.grad) for key, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() >= wanted["gradients"].keys()
    for key, value in wanted["gradients"].items():
        assert relative(gradients[key], value) < PUBLISHED or (gradients[key] - value).abs().max() < PUBLISHED, key


@pytest.mark.skipif(not FILES, reason="the full reference files are not part of the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_full_numbers(path):
    file = torch.load(path, weights_only=True)
    model = model_of(path.stem).from_checkpoint(path)
    names = ("atomic_numbers", "pos", "cell", "batch", "edge_index", "cell_offsets")
    inputs = {name: file["inputs"][name] for name in names}
    outputs = model(**inputs, edge_frames=file["edge_rot_mat"], return_hidden=True)
    hidden = outputs.pop("hidden")
    assert outputs.keys() == file["outputs"].keys()
    assert hidden.keys() == file["hidden"].keys()
    for key, value in {**file["outputs"], **file["hidden"]}.items():
        assert relative({**outputs, **hidden}[key], value) < PUBLISHED, key
    loss_of(outputs).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == file["param_grads"].keys()
    for key, value in file["param_grads"].items():
        grad = gradients[key]
        assert grad is not None, key
        assert relative(grad, value) < PUBLISHED or (grad - value).abs().max() < 1e-15, key


def test_the_official_code_is_given_the_same_basis():
    distance = torch.linspace(0, 6, 50, dtype=torch.float64)
    stand_in = _Smearing(0.0, 5.0, 40, 2.0).double()
    assert relative(stand_in(distance), GaussianSmearing(5.0, 40)(distance)) < 1e-6  # its centres are of float32
    assert list(stand_in.state_dict()) == ["offset"]
    assert stand_in.num_output == 40
