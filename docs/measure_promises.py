"""Measures the figures in the table of docs/promises.md: ``python -m docs.measure_promises``, from the root.

Everything on CPU, with small models whose parameters are all random: none stays at a special starting value.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from equiformer_pytorch import Equiformer
from equiformer_pytorch.testing import equivariance_errors
from tests.models import KINDS, Example, build, example, relative, squares
from tests.oracle import random_rotation
from tests.promises.test_reversible import without_reversing


def sized(x: float) -> str:
    """As in the table."""
    return f"{x:.1e}"


def deviation(actual: dict[int, Tensor], expected: dict[int, Tensor]) -> dict[int, float]:
    """Per degree, relative to the largest entry."""
    return {degree: relative(actual[degree], expected[degree]) for degree in expected}


def awkward(given: Example) -> Example:
    """With edges along +y and −y, one a hair off y, and two points that coincide."""
    coors = given.coors.clone()
    first = coors[:, 0]
    for index, offset in ((1, (0.0, 1.0, 0.0)), (2, (0.0, -1.3, 0.0)), (3, (1e-6, 0.9, 0.0)), (4, (0.0, 0.0, 0.0))):
        coors[:, index] = first + torch.tensor(offset, dtype=coors.dtype)
    return Example(given.inputs, coors, given.extra)


def equivariance_by_degree() -> None:
    """Rotations of a model with degrees 0 … 10."""
    for attention in (True, False):
        for dtype in (torch.float32, torch.float64):
            model = build(
                dtype,
                dim=4,
                num_degrees=11,
                output_degrees=11,
                l2_dist_attention=attention,
                noise=0.1,
            )
            given = awkward(example(model, points=8)).to(dtype)
            worst = dict.fromkeys((f"degree {degree}" for degree in range(11)), 0.0)
            call = {**given.call(), "return_all_degrees": True}
            with torch.no_grad():
                for seed in range(3):
                    found = equivariance_errors(model, call, under=("rotation",), seed=seed)["rotation"]
                    worst = {degree: max(worst[degree], found[degree]) for degree in worst}
            name = "l2" if attention else "mlp"
            cells = " ".join(map(sized, worst.values()))
            print(f"rotation, degrees 0 … 10, {name}, {dtype}: {cells}; worst {sized(max(worst.values()))}")


def over_kinds(what: str, dtype: torch.dtype, measure: Callable[[Equiformer, Example], float], **only: str) -> None:
    """The worst over every kind of model."""
    worst, where = 0.0, ""
    for name, options in KINDS.items():
        if only.get("name", "") not in name:
            continue
        model = build(dtype, **options)
        with torch.no_grad():
            found = measure(model, example(model).to(dtype))
        if found >= worst:
            worst, where = found, name
    print(f"{what}, {dtype}: worst {sized(worst)} ({where})")


def moved(*under: str) -> Callable[[Equiformer, Example], float]:
    """Relative error under these transformations."""

    def measure(model: Equiformer, given: Example) -> float:
        found = equivariance_errors(model, {**given.call(), "return_all_degrees": True}, under=under)
        return max(error for errors in found.values() for error in errors.values())

    return measure


def padded(model: Equiformer, given: Example) -> float:
    """Largest absolute change when points of garbage are appended and masked."""
    extra, more = {}, 3

    def grow(x: Tensor, dims: tuple[int, ...], fill: float) -> Tensor:
        for dim in dims:
            size = list(x.shape)
            size[dim] = more
            x = torch.cat((x, torch.full(size, fill, dtype=x.dtype)), dim=dim)
        return x

    def points(x: Tensor) -> Tensor:
        return grow(x, (1,), float("nan") if x.is_floating_point() else 0)

    inputs = (
        points(given.inputs)
        if isinstance(given.inputs, Tensor)
        else {degree: points(x) for degree, x in given.inputs.items()}
    )
    for name, x in given.extra.items():
        extra[name] = grow(x, (1, 2), float("nan") if x.is_floating_point() else 1)
    n = given.coors.shape[1]
    mask = torch.arange(n + more).expand(given.coors.shape[0], -1) < n
    coors = grow(given.coors, (1,), 1e30)
    expected = given.all_degrees(model)
    actual = Example(inputs, coors, {**extra, "mask": mask}).all_degrees(model)
    return max((actual[d][:, :n] - expected[d]).abs().max().item() for d in expected)


def one_by_one(model: Equiformer, given: Example) -> float:
    """Largest absolute difference of a batch from its structures alone."""
    whole = given.all_degrees(model)
    worst = 0.0
    for index in range(given.coors.shape[0]):
        one = slice(index, index + 1)
        inputs = given.inputs[one] if isinstance(given.inputs, Tensor) else {d: x[one] for d, x in given.inputs.items()}
        alone = Example(inputs, given.coors[one], {k: v[one] for k, v in given.extra.items()}).all_degrees(model)
        worst = max(worst, *((alone[d] - whole[d][one]).abs().max().item() for d in whole))
    return worst


def octahedron() -> None:
    """What symmetry forces to zero: degree 1 and 3 at the centre, as a share of the largest feature."""
    corners = torch.cat((torch.eye(3), -torch.eye(3), torch.zeros(1, 3))).double()[None]
    for dtype in (torch.float32, torch.float64):
        worst = 0.0
        for attention in (True, False):
            model = build(dtype, num_degrees=4, output_degrees=4, dim=6, dim_in=5, l2_dist_attention=attention, depth=4)
            feats = torch.cat((torch.ones(1, 6, 5), torch.full((1, 1, 5), 0.3)), dim=1).to(dtype)
            given = Example(feats, (corners @ random_rotation(3).T).to(dtype))
            with torch.no_grad():
                out = given.all_degrees(model)
            largest = max(x.abs().max().item() for x in out.values())
            worst = max(worst, *(out[degree][0, -1].abs().max().item() / largest for degree in (1, 2, 3)))
        print(f"symmetric zero at the centre of an octahedron, 4 blocks, {dtype}: {sized(worst)}")


def gradients() -> None:
    """Autograd against central differences along a random direction, relative; then reversible against plain."""
    worst, where = 0.0, ""
    for name, options in KINDS.items():
        if "reversible" in name:
            continue
        model = build(torch.float64, **options)
        given = example(model)
        weight = {d: torch.randn_like(x) for d, x in given.all_degrees(model).items()}

        def energy(coors: Tensor, model=model, given=given, weight=weight) -> Tensor:
            out = Example(given.inputs, coors, given.extra).all_degrees(model)
            return torch.stack([(out[d] * weight[d]).sum() for d in out]).sum()

        coors = given.coors.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(coors), coors)
        direction = torch.randn_like(coors)
        exact = (gradient * direction).sum()
        found = float("inf")
        for h in (1e-5, 1e-6):
            with torch.no_grad():
                numeric = (
                    8 * (energy(given.coors + h * direction) - energy(given.coors - h * direction))
                    - (energy(given.coors + 2 * h * direction) - energy(given.coors - 2 * h * direction))
                ) / (12 * h)
            found = min(found, ((numeric - exact).abs() / gradient.norm() / direction.norm()).item())
        if found >= worst:
            worst, where = found, name
    print(f"coordinate gradient against central differences, float64: worst {sized(worst)} ({where})")

    for dtype in (torch.float32, torch.float64):
        plain = build(dtype, reversible=True, depth=6)
        given = example(plain).to(dtype)
        gradients = []
        for model in (plain, without_reversing(plain)):
            coors = given.coors.clone().requires_grad_()
            loss = squares(Example(given.inputs, coors, given.extra).all_degrees(model))
            watched = (coors, *model.layers.parameters(), *model.embed.parameters())
            gradients.append(torch.autograd.grad(loss, watched))
        worst = max(relative(one, other) for one, other in zip(*gradients, strict=True))
        print(f"reversible gradient against the recorded recurrence, 6 blocks, {dtype}: worst {sized(worst)}")


def smoothness() -> None:
    """Change of output and of gradient as a point crosses `valid_radius` by 1e-7 to either side, relative."""
    worst_out = worst_grad = 0.0
    for options in ({}, {"l2_dist_attention": False}, {"attend_self": False}):
        model = build(torch.float64, valid_radius=2.0, **options)
        g = torch.Generator().manual_seed(5)
        feats = torch.randn(1, 4, 5, generator=g, dtype=torch.float64)
        base = torch.tensor([[0.0, 0, 0], [0.8, 0.1, 0], [0.1, 0.9, 0.3], [2.0, 0, 0]], dtype=torch.float64)[None]
        outs = []
        for side in (-1e-7, 1e-7):
            coors = base.clone()
            coors[0, 3, 0] += side
            coors.requires_grad_()
            out = model(feats, coors, return_all_degrees=True)
            parts = [(x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in out.values()]
            (gradient,) = torch.autograd.grad(torch.stack(parts).sum(), coors)
            outs.append(({d: x.detach() for d, x in out.items()}, gradient))
        worst_out = max(worst_out, *deviation(outs[1][0], outs[0][0]).values())
        worst_grad = max(worst_grad, relative(outs[1][1], outs[0][1]))
    print(f"crossing the radius by 2e-7: outputs change by {sized(worst_out)}, gradients by {sized(worst_grad)}")


def start_up() -> None:
    """Import beyond torch's own, and construction."""
    code = "import time, torch; t = time.perf_counter(); import equiformer_pytorch;print(time.perf_counter() - t)"
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in "123"]
    print(f"import beyond torch: {min(times):.2f} s")
    code = (
        "import time; from equiformer_pytorch import Equiformer; t = time.perf_counter();"
        "Equiformer(dim=8, num_degrees=11, depth=2); print(time.perf_counter() - t)"
    )
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in "123"]
    print(f"construction with degrees 0 … 10, first in its process: {min(times):.2f} s")


def main() -> None:
    """All figures."""
    start = time.perf_counter()
    torch.manual_seed(0)
    over_kinds("padding with NaN and 1e30, absolute", torch.float64, padded)
    over_kinds("batch against one by one, absolute", torch.float64, one_by_one)
    for dtype in (torch.float32, torch.float64):
        over_kinds("rotation and translation, degrees 0 … 2", dtype, moved("rotation", "translation"))
        over_kinds("reflection, reflection_equivariant", dtype, moved("reflection"), name="reflection")
    equivariance_by_degree()
    octahedron()
    gradients()
    smoothness()
    start_up()
    print(f"took {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
