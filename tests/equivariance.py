"""The one check of equivariance: rotation, translation, permutation, reflection."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.models import Example, over_inputs
from tests.oracle import wigner_d

Function = Callable[[Example], dict[int, Tensor]]
"""From an example to features by degree, (batch, points, channels, 2·degree + 1) each."""


def random_angles(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """e3nn's YXY angles of a random rotation, in float64."""
    a, b, c = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * math.pi * a, (1 - 2 * b).acos(), 2 * math.pi * c


def turn(features: dict[int, Tensor], angles: tuple[Tensor, ...], improper: bool) -> dict[int, Tensor]:
    """Features of a structure that is turned, and reflected through the origin if `improper`, by e3nn's matrices."""
    turned = {}
    for degree, x in features.items():
        matrix = wigner_d(degree, *angles) * ((-1) ** degree if improper else 1)
        turned[degree] = (x.double() @ matrix.T).to(x.dtype)
    return turned


def turn_example(example: Example, angles: tuple[Tensor, ...], improper: bool, shift: Tensor) -> Example:
    """The same structure elsewhere in space."""
    matrix = wigner_d(1, *angles) * (-1 if improper else 1)
    inputs = example.inputs if isinstance(example.inputs, Tensor) else turn(example.inputs, angles, improper)
    coors = example.coors.double() @ matrix.T + shift
    return Example(inputs, coors.to(example.coors.dtype), example.extra)


def permute_example(example: Example, order: Tensor) -> Example:
    """The same points in another order."""

    def points(x: Tensor) -> Tensor:
        return x[:, order]

    def pairs(x: Tensor) -> Tensor:
        return x[:, order][:, :, order]

    extra = {name: points(x) if name == "mask" else pairs(x) for name, x in example.extra.items()}
    return Example(over_inputs(points, example.inputs), points(example.coors), extra)


def assert_same(actual: dict[int, Tensor], expected: dict[int, Tensor], tolerance: float, what: str) -> None:
    """Per degree, relative to the largest entry of the degree."""
    assert actual.keys() == expected.keys()
    for degree, wanted in expected.items():
        scale = wanted.abs().max().item()
        assert scale > 1e-3, f"degree {degree} is too small ({scale:.1e}) to show anything"
        error = (actual[degree].double() - wanted.double()).abs().max().item() / scale
        assert error <= tolerance, f"{what}: degree {degree} deviates by {error:.2e} > {tolerance:.0e}"


def check_equivariance(
    function: Function, example: Example, tolerance: float, *, reflection: bool = False, seed: int = 0
) -> None:
    """Fails unless `function` commutes with rotations, translations and permutations; reflections if asked."""
    expected = function(example)
    shift = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
    none = torch.zeros(3, dtype=torch.float64)

    same = tuple(torch.zeros(3, dtype=torch.float64))
    assert_same(function(turn_example(example, same, False, shift)), expected, tolerance, "translation")
    for turn_seed in (seed, seed + 1):
        angles = random_angles(turn_seed)
        moved = turn_example(example, angles, False, none)
        assert_same(function(moved), turn(expected, angles, False), tolerance, "rotation")
    if reflection:
        angles = random_angles(seed + 2)
        moved = turn_example(example, angles, True, none)
        assert_same(function(moved), turn(expected, angles, True), tolerance, "reflection")

    order = torch.randperm(example.coors.shape[1], generator=torch.Generator().manual_seed(seed))
    permuted = {degree: x[:, order] for degree, x in expected.items()}
    assert_same(function(permute_example(example, order)), permuted, tolerance, "permutation")
