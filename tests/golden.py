"""Golden cases: what release 1.2.0 gave for many small models, in float64. `tests/data/build_golden.py` wrote them.

A case is a plain dict: `kind` of model, its `config`, the `state` of its weights, `inputs` of a call, and what came of
it: `outputs`, `gradients` of a loss by the inputs, and three numbers of each of `inner`, what comes out on the way and
the gradients by parameters.
"""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equiformer_pytorch import Equiformer, EquiformerPotential, EquiformerV2, EquiformerV3

DATA = Path(__file__).resolve().parent / "data"
GOLDEN = DATA / "golden.pt.xz"
PICKLED = DATA / "pickled_1_2_0"
SAVED = DATA / "saved_1_2_0"
RUN = DATA / "run_1_2_0"

Model = Equiformer | EquiformerPotential | EquiformerV2 | EquiformerV3
CLASSES: dict[str, type[Model]] = {
    "equiformer": Equiformer,
    "potential": EquiformerPotential,
    "v2": EquiformerV2,
    "v3": EquiformerV3,
}
# The inputs by which the loss is differentiated, where they are floats.
DIFFERENTIATED = ("inputs", "coors", "pos", "cell", "edges", "edge_attr")
# What names of gradients by parameters begin with.
GRADIENT = "gradient: "
# Below this, entries are rounding noise of something that symmetry makes zero.
NOISE = 1e-8


def write_golden(cases: dict[str, dict[str, Any]]) -> None:
    """To their file."""
    buffer = io.BytesIO()
    torch.save(cases, buffer)
    GOLDEN.write_bytes(lzma.compress(buffer.getvalue(), preset=9))


def read_golden() -> dict[str, dict[str, Any]]:
    """All cases by name."""
    return torch.load(io.BytesIO(lzma.decompress(GOLDEN.read_bytes())), weights_only=True)


def rounded(values: Tensor) -> Tensor:
    """The nearest numbers of one byte each."""
    return values.to(torch.float8_e5m2).to(values.dtype)


def pack_state(model: nn.Module) -> dict[str, Any]:
    """Names, shapes and values of a state dict. Parameters must be numbers that a byte holds, see :func:`rounded`."""
    state, parameters = model.state_dict(), dict(model.named_parameters())
    values = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
    if not torch.equal(rounded(values), values):
        raise ValueError("model must have parameters of one byte")
    return {
        "names": list(state),
        "shapes": [list(state[name].shape) for name in state],
        "parameters": list(parameters),
        "values": values.to(torch.float8_e5m2).view(torch.uint8),
        "buffers": {name: value.clone() for name, value in state.items() if name not in parameters},
    }


def unpack_state(packed: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict, in float64."""
    shapes = dict(zip(packed["names"], packed["shapes"], strict=True))
    sizes = [torch.Size(shapes[name]).numel() for name in packed["parameters"]]
    values = packed["values"].view(torch.float8_e5m2).double().split(sizes)
    parameters = {name: value.view(shapes[name]) for name, value in zip(packed["parameters"], values, strict=True)}
    return {name: parameters[name] if name in parameters else packed["buffers"][name] for name in packed["names"]}


def build(case: dict[str, Any]) -> Model:
    """The model of a case, with its weights."""
    model = CLASSES[case["kind"]](**case["config"]).double().eval()
    model.load_state_dict(unpack_state(case["state"]), strict=True)
    return model


def weigh(outputs: dict[str, Tensor]) -> Tensor:
    """A loss in which every entry has a weight of its own."""
    total = torch.zeros((), dtype=torch.float64)
    for index, value in enumerate(outputs.values()):
        at = torch.arange(value.numel(), dtype=torch.float64)
        total = total + (value.flatten() * (0.7 * at + index).cos()).sum()
    return total


def digest(x: Tensor) -> Tensor:
    """Its norm and two projections: three numbers that any change shows in."""
    flat = x.detach().flatten()
    at = torch.arange(flat.numel(), dtype=torch.float64)
    return torch.stack((flat.norm(), (flat * (0.7 * at).cos()).sum(), (flat * (1.3 * at + 1).sin()).sum()))


def evaluate(kind: str, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """`outputs`, `gradients` and `inner` of a call."""
    leaves: dict[str, Tensor] = {}

    def prepared(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {degree: prepared(f"{name}.{degree}", part) for degree, part in value.items()}
        if isinstance(value, Tensor) and value.is_floating_point() and name.split(".")[0] in DIFFERENTIATED:
            leaves[name] = value = value.detach().clone().requires_grad_()
        return value

    call = {name: prepared(name, value) for name, value in inputs.items()}
    outputs, inner = {"equiformer": _of_equiformer, "potential": _of_potential}.get(kind, _of_published)(model, call)
    parameters = dict(model.named_parameters())
    loss = weigh({name: x for name, x in {**outputs, **inner}.items() if x.requires_grad})
    watched = [*leaves.values(), *parameters.values()]
    found = torch.autograd.grad(loss, watched, allow_unused=True, materialize_grads=True)
    inner |= {GRADIENT + name: x for name, x in zip(parameters, found[len(leaves) :], strict=True)}
    return {
        "outputs": {name: x.detach().clone() for name, x in outputs.items()},
        "gradients": dict(zip(leaves, found, strict=False)),
        "inner": {"names": list(inner), "values": torch.stack([digest(x) for x in inner.values()])},
    }


Found = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Outputs, and what else is to be seen."""


def _of_equiformer(model: nn.Module, call: dict[str, Any]) -> Found:
    """Features of all degrees, with gradients; their means and the attention weights, without."""
    outputs = {f"degree {degree}": x for degree, x in model(**call, return_all_degrees=True).items()}
    inner = {}
    with torch.no_grad():
        pooled, attention = model(**call, return_all_degrees=True, return_pooled=True, return_attn=True)
        outputs |= {f"pooled {degree}": x for degree, x in pooled.items()}
        for layer, degrees in enumerate(attention):
            if layer == 0:
                outputs["attended"] = degrees[0].indices.to(torch.int16)
            inner |= {f"attention {layer} {degree}": found.weights for degree, found in enumerate(degrees)}
    return outputs, inner


def _of_potential(model: nn.Module, call: dict[str, Any]) -> Found:
    return model(**call, forces=True, stress="cell" in call), {}


def _of_published(model: nn.Module, call: dict[str, Any]) -> Found:
    outputs = model(**call, return_hidden=True)
    return outputs, outputs.pop("hidden")


def deviation(actual: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest entry; any difference at all of whole numbers."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return float((actual != expected).any())
    if not expected.numel():
        return 0.0
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=NOISE))


def deviations(actual: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Of everything that :func:`evaluate` gives, by name."""
    found = {}
    for part in ("outputs", "gradients"):
        if list(actual[part]) != list(expected[part]):
            raise AssertionError(f"{part} are {list(actual[part])}, were {list(expected[part])}")
        found |= {f"{part}: {name}": deviation(actual[part][name], x) for name, x in expected[part].items()}
    names, values = expected["inner"]["names"], expected["inner"]["values"]
    if actual["inner"]["names"] != names:
        raise AssertionError(f"inner are {actual['inner']['names']}, were {names}")
    # Next to nothing beside the gradients of other parameters is nothing.
    size = values.abs().amax(1)
    of_parameters = torch.tensor([name.startswith(GRADIENT) for name in names])
    floor = torch.where(of_parameters, 1e-6 * size[of_parameters].max(), NOISE)
    shares = (actual["inner"]["values"] - values).abs().amax(1) / size.maximum(floor)
    return found | dict(zip(names, shares.tolist(), strict=True))
