"""Gradients: those of the function, of first and second order; forces and stress: those of the energy."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call

from equiformer_pytorch.testing.roles import named, rebuilt

EPS = 1e-6
# Of derivatives of first and second order: absolute and relative.
TOLERANCES = {1: (1e-6, 1e-5), 2: (1e-5, 1e-4)}
# Of a central difference of the energy, and how far forces and stress may be from it, relative.
STEP, CONSERVATIVE = 1e-5, 1e-6
DIRECTIONS = 3
DERIVATIVES = ("forces", "stress")
# Floats by which nothing is differentiated.
FIXED = ("mask", "adj_mat", "pbc", "cell_offsets", "edge_frames")


def assert_gradients(
    function: Callable[..., Any],
    inputs: Mapping[str, Any],
    *,
    by: Collection[str] | None = None,
    parameters: bool = False,
    second: bool = True,
    conservative: bool = True,
    fast: bool = False,
) -> None:
    r"""Fails unless derivatives are those of finite differences; in float64.

    Args:
        function: a model or layer, or whatever takes `inputs` by name and returns a tensor or a (named) tuple or
            mapping of tensors.
        inputs: arguments by name. Each entry that is differentiated by costs two calls, and second order many: few
            points, few channels.
        by: inputs to differentiate by, "inputs.degree 1" is inputs[1]; None: all floats that are not masks, adjacency
            matrices, cell offsets or frames of edges.
        parameters: differentiate by the parameters of `function`, a module, instead.
        second: second derivatives, too, save for results `forces` and `stress`, which are derivatives already.
        conservative: where there are results `energy` and `forces`, that :math:`F = -∂E/∂r`, and where there is a
            `cell` and a result `stress`, that :math:`σ = \frac1V ∂E/∂ε`, ε a symmetric strain of positions and cell.
        fast: compare along random directions instead of entry by entry.

    Raises:
        AssertionError: naming the result and the input whose derivative is wrong.
        ValueError: something to be differentiated by is not float64, or there is no such input.
    """
    plain = named(function(**inputs))
    if conservative and {"energy", "forces"} <= plain.keys():
        _assert_conservative(function, inputs, plain)
    leaves = _parameters(function) if parameters else _leaves(inputs, by)
    wrong = sorted(name for name, x in leaves.items() if x.dtype != torch.float64)
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be float64 to be compared with finite differences")
    names = list(leaves)
    values = tuple(x.detach().clone().requires_grad_() for x in leaves.values())

    def results(*values: Tensor) -> dict[str, Tensor]:
        given = dict(zip(names, values, strict=True))
        if parameters:
            assert isinstance(function, nn.Module)
            return named(functional_call(function, given, (), dict(inputs)))
        return named(function(**rebuilt(inputs, given)))

    with torch.enable_grad():
        differentiable = [name for name, x in results(*values).items() if x.requires_grad]
    if not differentiable:
        raise AssertionError(f"no result has a gradient by {', '.join(names)}")
    for order, check in ((1, gradcheck), (2, gradgradcheck)):
        chosen = [name for name in differentiable if order == 1 or name.rpartition(".")[2] not in DERIVATIVES]
        if order == 2 and not (second and chosen):
            continue

        absolute, relative = TOLERANCES[order]

        def of_values(*values: Tensor, chosen: list[str] = chosen) -> tuple[Tensor, ...]:
            found = results(*values)
            return tuple(found[name] for name in chosen)

        try:
            check(of_values, values, eps=EPS, atol=absolute, rtol=relative, fast_mode=fast)
        except GradcheckError as error:
            raise AssertionError(
                f"derivatives of order {order} are wrong{_where(error, chosen, names)}\n{error}"
            ) from error


def _parameters(function: object) -> dict[str, Tensor]:
    if not isinstance(function, nn.Module):
        raise ValueError(f"parameters need function to be a module, got {type(function).__name__}")
    return dict(function.named_parameters())


def _leaves(inputs: Mapping[str, Any], by: Collection[str] | None) -> dict[str, Tensor]:
    """The inputs to differentiate by."""
    tensors = {name: x for name, x in named(inputs).items() if isinstance(x, Tensor)}
    if by is None:
        return {name: x for name, x in tensors.items() if x.is_floating_point() and name not in FIXED}
    unknown = sorted(set(by) - set(tensors))
    if unknown:
        raise ValueError(f"by has {unknown}, inputs have {sorted(tensors)}")
    return {name: tensors[name] for name in by}


def _where(error: GradcheckError, outputs: list[str], inputs: list[str]) -> str:
    """Names for the numbers in torch's message."""
    found = re.search(r"output (\d+) with respect to input (\d+)", str(error))
    return f": {outputs[int(found[1])]} by {inputs[int(found[2])]}" if found else ""


def _assert_conservative(function: Callable[..., Any], inputs: Mapping[str, Any], plain: dict[str, Tensor]) -> None:
    """Forces and stress beside differences of the energy along random directions."""
    generator = torch.Generator().manual_seed(0)
    pos = inputs["pos"].detach()

    @torch.no_grad()
    def slope(change: Callable[[float], dict[str, Tensor]]) -> Tensor:
        high, low = (named(function(**{**inputs, **change(step)}))["energy"] for step in (STEP, -STEP))
        return (high - low) / (2 * STEP)

    forces = plain["forces"].detach()
    for _ in range(DIRECTIONS):
        direction = torch.randn(pos.shape, generator=generator, dtype=torch.float64).to(pos)
        numeric = -slope(lambda step, d=direction: {"pos": pos + step * d}).sum()
        _compare(
            "forces are not minus the gradient of energy by pos", (forces * direction).sum(), numeric, forces.norm()
        )
    cell = inputs.get("cell")
    if cell is None or "stress" not in plain or inputs.get("edge_frames") is not None:
        return
    cell = cell.detach()
    stress = plain["stress"].detach().view(-1, 3, 3)
    volume = torch.linalg.det(cell.view(-1, 3, 3)).abs()
    for _ in range(DIRECTIONS):
        strain = torch.randn(3, 3, generator=generator, dtype=torch.float64).to(pos)
        strain = (strain + strain.mT) / 2
        numeric = slope(lambda step, e=strain: {"pos": pos + step * pos @ e, "cell": cell + step * cell @ e}) / volume
        message = "stress is not the derivative of energy by strain, per volume"
        _compare(message, (stress * strain).sum((1, 2)), numeric, stress.norm())


def _compare(message: str, found: Tensor, numeric: Tensor, size: Tensor) -> None:
    error = float((found - numeric).abs().max() / size.clamp(min=torch.finfo(size.dtype).tiny))
    if not error <= CONSERVATIVE:
        raise AssertionError(f"{message}: relative error {error:.1e}")
