"""Equivariance: a function of a structure that is moved gives what it gave for the structure, moved alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from equiformer_pytorch.testing.roles import POSITIONS, Motion, Role, input_role, named, output_role, rebuilt

TRANSFORMATIONS = ("translation", "rotation", "permutation", "reflection")
"""What `under` may name. Permutations reorder the points of each structure and, where edges are given, these, too."""
PROPER = TRANSFORMATIONS[:3]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Relative errors that rounding explains, by the dtype of the inputs."""
LOW_PRECISION = 0.1
ROTATIONS = 2


class _Experiment:
    """A function, its inputs, and how the tensors of both sides behave."""

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Mapping[str, Any],
        roles: Mapping[str, Role],
        outputs: Role | Mapping[str, Role | None],
    ) -> None:
        self.function, self.inputs, self.outputs = function, inputs, outputs
        self.leaves = {name: x for name, x in named(inputs).items() if isinstance(x, Tensor)}
        unknown = sorted(set(roles) - set(self.leaves))
        if unknown:
            raise ValueError(f"roles has {unknown}, inputs have {sorted(self.leaves)}")
        self.dense = any(name in self.leaves and self.leaves[name].ndim == 3 for name in POSITIONS)
        self.roles = {
            name: roles[name] if name in roles else input_role(name, x, self.dense) for name, x in self.leaves.items()
        }

    def output_roles(self, found: dict[str, Tensor]) -> dict[str, Role]:
        """Of those results that are to be looked at."""
        if isinstance(self.outputs, Role):
            return dict.fromkeys(found, self.outputs)
        pooled = bool(self.inputs.get("return_pooled"))
        chosen: dict[str, Role | None] = {}
        for name in found:
            given = name if name in self.outputs else name.partition(".")[0]
            if given in self.outputs:
                chosen[name] = self.outputs[given]
            else:
                chosen[name] = output_role(name, self.dense, pooled, self.function)
        return {name: role for name, role in chosen.items() if role is not None}

    def call(self, motion: Motion) -> dict[str, Tensor]:
        """Results by name for the structure after the motion."""
        moved = {name: motion.of(x, self.roles[name]) for name, x in self.leaves.items()}
        found = named(self.function(**rebuilt(self.inputs, moved)))
        return {name: x.detach() for name, x in found.items()}

    def motions(self, transformation: str, generator: torch.Generator) -> list[Motion]:
        """Some of the kind."""
        if transformation == "translation":
            return [Motion(shift=3 * torch.randn(3, generator=generator, dtype=torch.float64))]
        if transformation == "permutation":
            return [self._reordered(generator)]
        turns, improper = [], transformation == "reflection"
        for _ in range(1 if improper else ROTATIONS):
            a, b, c = torch.rand(3, generator=generator, dtype=torch.float64)
            angles = torch.stack((2 * math.pi * a, (1 - 2 * b).acos(), 2 * math.pi * c))
            turns.append(Motion(angles=angles, improper=improper))
        return turns

    def _reordered(self, generator: torch.Generator) -> Motion:
        """Points change places within their structures, edges all."""
        sizes = {x.shape[role.points[0]] for name, x in self.leaves.items() if (role := self.roles[name]).points}
        edges = {x.shape[role.edges] for name, x in self.leaves.items() if (role := self.roles[name]).edges is not None}
        if len(sizes) != 1 or len(edges) > 1:
            raise ValueError(f"roles and inputs do not agree on the number of points {sizes} or of edges {edges}")
        order = torch.randperm(sizes.pop(), generator=generator)
        batch = self.leaves.get("batch")
        if batch is not None:
            given = batch.cpu()
            within = order[given[order].argsort(stable=True)]
            order = torch.empty_like(order).index_copy_(0, given.argsort(stable=True), within)
        return Motion(order=order, edge_order=torch.randperm(edges.pop(), generator=generator) if edges else None)


def equivariance_errors(
    function: Callable[..., Any],
    inputs: Mapping[str, Any],
    *,
    roles: Mapping[str, Role] | None = None,
    outputs: Role | Mapping[str, Role | None] | None = None,
    under: Collection[str] = PROPER,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    r""":math:`\max|f(g x) - g f(x)| / \max|f(x)|` for random g, by kind of g and name of result.

    A result without entries other than zero has the error NaN.

    Args:
        function, inputs, roles, outputs, under, seed: as of :func:`assert_equivariant`.

    Raises:
        ValueError: there is no such transformation; or it is not known how a tensor behaves.
    """
    unknown = sorted(set(under) - set(TRANSFORMATIONS))
    if unknown:
        raise ValueError(f"under must be some of {TRANSFORMATIONS}, got {unknown}")
    experiment = _Experiment(function, inputs, roles or {}, outputs or {})
    generator = torch.Generator().manual_seed(seed)
    plain = experiment.call(Motion())
    behaviour = experiment.output_roles(plain)
    errors: dict[str, dict[str, float]] = {}
    for transformation in TRANSFORMATIONS:
        motions = experiment.motions(transformation, generator) if transformation in under else []
        for motion in motions:
            found = experiment.call(motion)
            worst = errors.setdefault(transformation, {})
            for name, role in behaviour.items():
                wanted = role.by_degree(name, motion.of(plain[name], role))
                for part, x in role.by_degree(name, found[name]).items():
                    error = _relative(x, wanted[part])
                    worst[part] = error if math.isnan(error) else max(error, worst.get(part, 0.0))
    return errors


def _relative(found: Tensor, wanted: Tensor) -> float:
    """The largest deviation as a share of the largest entry; NaN where there is none, or none but zeros."""
    size = float(wanted.double().abs().max()) if wanted.numel() else 0.0
    if size == 0:
        return math.nan
    error = float((found.double() - wanted.double()).abs().max()) / size
    return math.inf if math.isnan(error) else error


def assert_equivariant(
    function: Callable[..., Any],
    inputs: Mapping[str, Any],
    *,
    roles: Mapping[str, Role] | None = None,
    outputs: Role | Mapping[str, Role | None] | None = None,
    under: Collection[str] = PROPER,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Fails unless the function gives, for a structure that is moved, what it gave for the structure, moved alike.

    Args:
        function: a model or layer in evaluation mode, or whatever takes `inputs` by name and returns a tensor or a
            (named) tuple or mapping of tensors.
        inputs: arguments by name: those of a dense or flat call of this package's models, or others.
        roles: how inputs behave that are not arguments of this package's models; "inputs.degree 1" is inputs[1].
        outputs: how results behave whose names are not those of this package's, None for what is to be left out; or
            one role for all.
        under: of "translation", "rotation", "permutation", "reflection". Reflections are improper rotations: degree l
            has the parity (−1)^l.
        tolerance: largest relative error, see :func:`equivariance_errors`; None: 1e-10 of float64, 1e-4 of float32.
        seed: of the motions.

    Raises:
        AssertionError: naming each result that fails, under which transformation, with its relative error.
        ValueError: it is not known how a tensor behaves.
    """
    errors = equivariance_errors(function, inputs, roles=roles, outputs=outputs, under=under, seed=seed)
    if tolerance is None:
        dtypes = {x.dtype for x in named(inputs).values() if isinstance(x, Tensor) and x.is_floating_point()}
        tolerance = max((TOLERANCE.get(dtype, LOW_PRECISION) for dtype in dtypes), default=TOLERANCE[torch.float64])
    wrong = [
        f"{name} under {transformation}: "
        + ("nothing but zeros, which show nothing" if math.isnan(error) else f"relative error {error:.1e}")
        for transformation, found in errors.items()
        for name, error in found.items()
        if not error <= tolerance
    ]
    if wrong:
        raise AssertionError(f"not equivariant to {tolerance:.0e}:\n  " + "\n  ".join(wrong))
