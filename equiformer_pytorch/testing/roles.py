"""How tensors behave when a structure is turned, shifted, or its points are put in another order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from equiformer_pytorch.irr_repr import irr_repr

POSITIONS = ("coors", "pos")


@dataclass(frozen=True)
class Role:
    """How a tensor behaves when its structure is turned, shifted, or its points are put in another order."""

    degrees: tuple[tuple[int, int], ...] = ()
    """What the entries along `axis` are: for each (degree, channels) in turn 2·degree + 1 components in e3nn's real
    basis, channel last. Empty: invariant. Degree 1 is (x, y, z)."""
    axis: int = -1
    """The axis that holds the components of the `degrees`."""
    points: tuple[int, ...] = ()
    """Axes that run over points."""
    edges: int | None = None
    """The axis that runs over edges."""
    position: bool = False
    """It moves along when the structure is shifted."""
    tensor: bool = False
    """The last two axes are those of a 3 × 3 tensor, or the last one has its 9 entries."""
    names_points: bool = False
    """Its entries are numbers of points; negative ones stand for none."""

    def by_degree(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """The tensor `x` by its `name`, or where it has several degrees the part of each by a name of its own."""
        if len(self.degrees) < 2:
            return {name: x}
        parts = x.split([(2 * degree + 1) * channels for degree, channels in self.degrees], dim=self.axis)
        return {f"degree {degree} of {name}": part for (degree, _), part in zip(self.degrees, parts, strict=True)}

    @staticmethod
    def of_degree(degree: int, *points: int) -> Role:
        """Components of one degree in the last axis; `points` are the axes that run over points."""
        return Role(((degree, 1),), points=points)

    @staticmethod
    def of_fiber(channels: Iterable[int]) -> Role:
        """Features (points, Σ (2l+1)·c_l) of the layers of :class:`Equiformer`, c_l the `channels` of degree l."""
        return Role(tuple(enumerate(channels)), points=(0,))

    @staticmethod
    def up_to_degree(degree: int) -> Role:
        """Features (points, (degree+1)², channels) of the layers of the published models."""
        return Role(tuple((l, 1) for l in range(degree + 1)), axis=-2, points=(0,))


@dataclass(frozen=True)
class Motion:
    """A rotation by ZYZ angles, then, if `improper`, the inversion; a shift; another order of points and edges."""

    angles: Float64[Tensor, " 3"] | None = None
    improper: bool = False
    shift: Float64[Tensor, " 3"] | None = None
    order: Int[Tensor, " points"] | None = None
    edge_order: Int[Tensor, " edges"] | None = None

    def matrix(self, degree: int) -> Float64[Tensor, "order order"]:
        """What components of this degree are multiplied with."""
        if self.angles is None:
            return torch.eye(2 * degree + 1, dtype=torch.float64)
        return irr_repr(degree, self.angles) * ((-1) ** degree if self.improper else 1)

    def of(self, x: Tensor, role: Role) -> Tensor:
        """What becomes of a tensor."""
        if self.angles is not None and role.tensor:
            flat = x.reshape(*x.shape[: x.ndim - (1 if x.shape[-1] == 9 else 2)], 9)
            x = _along(flat, torch.kron(self.matrix(1), self.matrix(1)), -1).view_as(x)
        elif self.angles is not None and role.degrees:
            blocks = [torch.kron(self.matrix(l), torch.eye(c, dtype=torch.float64)) for l, c in role.degrees]
            x = _along(x, torch.block_diag(*blocks), role.axis)
        if self.shift is not None and role.position:
            x = (x.double() + self.shift.to(x.device)).to(x.dtype)
        if self.order is not None:
            if role.names_points:
                x = torch.where(x < 0, x, self.order.argsort().to(x.device)[x.clamp(min=0).long()].to(x.dtype))
            for axis in role.points:
                x = x.index_select(axis, self.order.to(x.device))
        if self.edge_order is not None and role.edges is not None:
            x = x.index_select(role.edges, self.edge_order.to(x.device))
        return x


def _along(x: Tensor, matrix: Float64[Tensor, "entries entries"], axis: int) -> Tensor:
    """The matrix times the entries along an axis, in float64."""
    turned = x.double().movedim(axis, -1) @ matrix.to(x.device).mT
    return turned.movedim(-1, axis).to(x.dtype)


def input_role(name: str, value: Tensor, dense: bool) -> Role:
    """What the arguments of this package's models are."""
    points = 1 if dense else 0
    if name in POSITIONS:
        return replace(Role.of_degree(1, points), position=True)
    if name.startswith("inputs.degree "):
        return Role.of_degree(int(name.split()[1]), points)
    known = {
        "inputs": Role(points=(points,)),
        "atomic_numbers": Role(points=(points,)),
        "mask": Role(points=(points,)),
        "batch": Role(points=(points,)),
        "adj_mat": Role(points=(value.ndim - 2, value.ndim - 1)),
        "edges": Role(points=(1, 2)),
        "edge_index": Role(edges=1, names_points=True),
        "edge_attr": Role(edges=0),
        "cell": Role.of_degree(1),
        "cell_offsets": Role(edges=0),
        "edge_frames": Role(((1, 1),), edges=0),
        "pbc": Role(),
        "condition": Role(),
    }
    if name not in known:
        raise ValueError(f"inputs has {name!r}: say in roles how it behaves")
    return known[name]


def output_role(name: str, dense: bool, pooled: bool, function: object) -> Role:
    """What the results of this package's models are."""
    points = () if pooled else (1 if dense else 0,)
    if name.startswith("degree "):
        return Role.of_degree(int(name.split()[1]), *points)
    known = {
        "type0": Role(points=points),
        "type1": Role.of_degree(1, *points),
        "energy": Role(),
        "forces": Role.of_degree(1, 0),
        "stress": Role(tensor=True),
    }
    if name in known:
        return known[name]
    target = getattr(function, "targets", {}).get(name)  # of EquiformerPotential
    if target is None:
        raise ValueError(f"the results have {name!r}: say in outputs how it behaves, or None to leave it out")
    points = (0,) if target.per == "atom" else ()
    return Role.of_degree(target.degree, *points) if target.degree else Role(points=points)


def named(value: Any, prefix: str = "") -> dict[str, Any]:
    """Tensors, tuples and mappings, nested, by name: "inputs.degree 1" is inputs[1]. None is left out."""
    if isinstance(value, Mapping):
        items = ((_key(key), part) for key, part in value.items())
    elif isinstance(value, tuple | list):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    else:
        return {} if value is None else {prefix or "output": value}
    found: dict[str, Any] = {}
    for name, part in items:
        found |= named(part, f"{prefix}.{name}" if prefix else str(name))
    return found


def _key(key: object) -> str:
    return f"degree {key}" if isinstance(key, int) else str(key)


def rebuilt(inputs: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with these tensors in the place of theirs."""

    def place(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: place(f"{name}.{_key(key)}", part) for key, part in value.items()}
        return leaves.get(name, value)

    return {name: place(name, value) for name, value in inputs.items()}
