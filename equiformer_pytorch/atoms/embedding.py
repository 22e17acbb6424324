"""What atoms and structures come with beside their geometry, as features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.potential import Input
from equiformer_pytorch.base.tracing import lasting
from equiformer_pytorch.inputs.structures import Structures

if TYPE_CHECKING:
    from ase import Atoms

# What energies depend on, where it is not one of these, whether or not a model takes it.
NEUTRAL = {"charge": (0,), "spin": (0, 1)}


def ignored_inputs(atoms: Atoms, taken: Iterable[str]) -> dict[str, Any]:
    """What ASE atoms say in ``info`` of their charge and spin, where it is not neutral and not taken."""
    found = {name: atoms.info.get(name) for name in NEUTRAL if name not in taken}
    return {name: value for name, value in found.items() if value is not None and value not in NEUTRAL[name]}


def read_inputs(atoms: Atoms, inputs: Mapping[str, Input]) -> dict[str, Tensor]:
    """What ASE atoms say of each input in ``info`` or ``arrays`` by its name, () or (atoms,); else its default.

    Raises:
        ValueError: it is no number, or not one for each atom.
    """
    said = {name: atoms.info.get(name, atoms.arrays.get(name)) for name in inputs}
    return as_inputs({name: value for name, value in said.items() if value is not None}, inputs, len(atoms))


def as_inputs(given: Mapping[str, Any], inputs: Mapping[str, Input], atoms: int) -> dict[str, Tensor]:
    """All inputs of one structure, () or (atoms,): those that are given by name, and the defaults of the others.

    Raises:
        ValueError: there is no such input, it is no number, or not one for each atom.
    """
    unknown = sorted(set(given).difference(inputs))
    if unknown:
        raise ValueError(f"inputs has {unknown}, the potential takes {sorted(inputs)}")
    return {
        name: torch.tensor(as_input(name, given.get(name, each.default), each, atoms), device="cpu")
        for name, each in inputs.items()
    }


def as_input(name: str, value: Any, given: Input, atoms: int) -> np.ndarray:
    """One input of a structure as float64, () or (atoms,).

    Raises:
        ValueError: it is no number, or not one for each atom.
    """
    shape = (atoms,) if given.per == "atom" else ()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error
    if array.shape not in (shape, (1,) if given.per == "structure" else ()):
        raise ValueError(f"{name} must be one number for each {given.per}, got shape {array.shape}")
    return np.broadcast_to(array if given.per == "atom" else array.reshape(()), shape)


def check_input(name: str, given: Input) -> None:
    """ValueError or TypeError unless an :class:`Input` makes sense."""
    if given.per not in ("structure", "atom"):
        raise ValueError(f"inputs[{name!r}] must be per 'structure' or 'atom', got {given.per!r}")
    if (given.least is None) != (given.most is None):
        raise ValueError(f"inputs[{name!r}] must have both least and most, or neither, got {given}")
    if given.least is None or given.most is None:
        return
    for bound in (given.least, given.most):
        checks.check_type(f"inputs[{name!r}]", bound, int, "bounded by whole numbers")
    if given.most < given.least:
        raise ValueError(f"inputs[{name!r}] must have least ≤ most, got {given}")
    if given.default != int(given.default) or not given.least <= given.default <= given.most:
        raise ValueError(f"inputs[{name!r}] must have a default in {given.least} … {given.most}, got {given.default}")


class InputEmbeddings(nn.Module):
    r""":math:`x_i = \sum_q e_q(q_i)`: of each input q its embedding, a row per whole number or a multiple of one row.

    Zero at first, so that values that were never trained on change nothing.
    """

    def __init__(self, inputs: Mapping[str, Input], channels: int) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        rows = {name: 1 if i.least is None or i.most is None else i.most - i.least + 1 for name, i in inputs.items()}
        self.weights = nn.ParameterDict({name: torch.zeros(count, channels) for name, count in rows.items()})

    def check(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that are given, as they are; values are checked as in ``base/checks.py``."""
        unknown = sorted(set(given).difference(self.inputs))
        if unknown:
            raise ValueError(f"inputs has {unknown}, the potential takes {sorted(self.inputs)}")
        found = {name: lasting(checks.check_tensor(f"inputs[{name!r}]", x)) for name, x in given.items()}
        for name, x in found.items():
            _check_values(name, x, self.inputs[name])
        return found

    def forward(
        self, given: Mapping[str, Shaped[Tensor, " members"]], structures: Structures
    ) -> Float[Tensor, "atoms channels"]:
        parts = []
        for name, each in self.inputs.items():
            count = structures.pos.shape[0] if each.per == "atom" else structures.count
            values, weight = given.get(name), self.weights[name]
            if values is None:
                values = torch.full((count,), each.default, dtype=torch.float64, device=weight.device)
            checks.check_shape(f"inputs[{name!r}]", values, (count,), f"({each.per}s,)")
            values = structures.arranged(values) if each.per == "atom" else values.index_select(0, structures.batch)
            if each.least is None:
                parts.append(values.to(weight.dtype)[:, None] * weight)
            else:
                parts.append(weight.index_select(0, values.long() - each.least))
        return torch.stack(parts).sum(0)


def _check_values(name: str, x: Tensor, given: Input) -> None:
    """ValueError unless they are finite, and of a bounded input whole numbers of its range."""
    if given.least is None or given.most is None:
        checks.check_finite(f"inputs[{name!r}]", x, given.per)
    elif checks.looks_at_values():
        words = f"inputs[{name!r}] must be whole numbers in {given.least} … {given.most}"
        inside = (x >= given.least) & (x <= given.most) & (x == (x.round() if x.is_floating_point() else x))
        checks.require(inside.all(), lambda: ValueError(f"{words}, got others"))
