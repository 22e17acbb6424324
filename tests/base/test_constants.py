"""Constants: exact in every cast, back from the meta device, pickled with their module."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equiformer_pytorch import Equiformer, EquiformerPotential, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms.heads import AtomicEnergies
from equiformer_pytorch.base.constants import ExactConstants
from tests.atoms import potentials
from tests.published_cases import GRADIENT, V2, V3, molecule


def thirds(count: int) -> Tensor:
    made = torch.arange(count, dtype=torch.float64) / 3
    assert made.device.type == "cpu"
    return made


class Inner(ExactConstants):
    thirds: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.constant("thirds", thirds, 4)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))


class Outer(ExactConstants):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Inner())
        self.constant("own", thirds, 2)


@pytest.mark.parametrize("make", [Inner, Outer, lambda: nn.Sequential(Outer())], ids=["one", "nested", "in a list"])
def test_casts_and_devices(make: Callable[[], nn.Module]) -> None:
    wanted = dict(make().named_buffers())
    for model in (make().half().double(), make().to("meta").to_empty(device="cpu"), pickle.loads(pickle.dumps(make()))):
        for name, found in model.named_buffers():
            assert found.dtype == torch.float64
            assert not found.is_meta
            assert name.endswith("seen") or torch.equal(found, wanted[name]), name
        assert not any("thirds" in name or "own" in name for name in model.state_dict())
    with torch.device("meta"):
        model = make()
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    model = copy.deepcopy(model).half().to_empty(device="cpu")
    model.load_state_dict(make().state_dict(), assign=True)
    assert all(torch.equal(found, wanted[name]) for name, found in model.named_buffers())


def test_what_cannot_be_made_anew_is_named() -> None:
    model = Inner()
    model.register_buffer("lost", torch.ones(2), persistent=False)
    with pytest.raises(RuntimeError, match="lost has no values"):
        model.to("meta").to_empty(device="cpu")


def test_reference_energies() -> None:
    with torch.device("meta"):
        energies = AtomicEnergies([1, 8])
    energies.to_empty(device="cpu").load_state_dict(AtomicEnergies([1, 8]).state_dict())
    assert energies.index(torch.tensor([8, 1, 8])).tolist() == [1, 0, 1]


OWN = {"species": [1, 6, 8], "dim": 4, "num_degrees": 3, "depth": 1, "heads": 1, "cutoff": 3.0}
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "potential": (lambda: EquiformerPotential(**OWN), lambda model: model(**potentials.molecule(5))["energy"]),
    "v2": (lambda: EquiformerV2(**V2), lambda model: model(**molecule())["energy"]),
    "v3": (lambda: EquiformerV3(**V3), lambda model: model(**molecule())["stress"]),
    "gradient": (lambda: EquiformerV3(**GRADIENT), lambda model: model(**molecule())["forces"]),
    "equiformer": (
        lambda: Equiformer(dim=(5, 4, 3), num_degrees=3, num_tokens=4),
        lambda model: model(torch.arange(4)[None], potentials.molecule(4)["pos"][None]).type1,
    ),
}


@pytest.mark.parametrize("emptied", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_models_are_built_without_memory(kind: str, emptied: bool) -> None:
    """On the meta device, then given memory and the weights of a file; or these weights alone."""
    make, call = MODELS[kind]
    wanted = make().eval()
    with torch.device("meta"):
        empty = make().eval()
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    if emptied:
        empty.to_empty(device="cpu")
    empty.load_state_dict(wanted.state_dict(), assign=True)
    assert torch.equal(call(empty), call(wanted))
