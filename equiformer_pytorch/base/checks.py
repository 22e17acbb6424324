"""Checks of what a caller passes. Errors name the argument, what came and what is wanted.

Types and shapes are known at once. Values may lie on a device that is still busy: whoever looks at one waits for it.
So checks of values say what they want of a tensor to :func:`require`; within :func:`together` they are decided at its
end, all by one wait, and within :func:`unchecked_values` not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equiformer_pytorch.base.tracing import number_from_data, plain

_LOOKS: ContextVar[bool] = ContextVar("_LOOKS", default=True)
_MOST: ContextVar[int | None] = ContextVar("_MOST", default=None)


@contextmanager
def unchecked_values(most_neighbors: int | None = None) -> Iterator[None]:
    """Within, no values are checked: neither whether coordinates are finite nor whether indices are in range.

    For CUDA graphs and inner loops, in this thread or task alone. With edges given a call then never waits for the
    device; whatever does not fit gives wrong numbers or an error of torch's. Types and shapes are checked as always.

    Args:
        most_neighbors: no point receives more of the given edges. `Equiformer` and what stands on it lay out the edges
            of each point as a row, and have to wait for the device to know how long where this is not said.
    """
    if torch.compiler.is_compiling():  # which looks at no values, and cannot trace what follows
        yield
        return
    tokens = _LOOKS.set(False), _MOST.set(most_neighbors)
    try:
        yield
    finally:
        _LOOKS.reset(tokens[0])
        _MOST.reset(tokens[1])


def most_neighbors() -> int | None:
    """What :func:`unchecked_values` was told, if anything."""
    return None if torch.compiler.is_compiling() else _MOST.get()


def looks_at_values() -> bool:
    """Whether values are checked: not within :func:`unchecked_values`, nor where torch compiles or exports."""
    return not torch.compiler.is_compiling() and _LOOKS.get()


class Answer:
    """A number that is known once the block of :func:`together` has ended."""

    value: int


class Together:
    """Questions about values on devices, all answered by one wait for a device. See :func:`together`."""

    def __init__(self) -> None:
        self._asked: dict[torch.device, list[tuple[Tensor, Callable[[int], None]]]] = {}

    def require(self, ok: Bool[Tensor, ""], error: Callable[[], Exception]) -> None:
        """Raise `error()` at the end unless `ok`."""

        def look(value: int) -> None:
            if not value:
                raise error()

        ok = plain(ok)
        self._ask(ok.all() if ok.ndim else ok, look)

    def number(self, value: Int[Tensor, ""] | Bool[Tensor, ""]) -> Answer:
        """The value of a tensor, whether values are checked or not."""
        answer = Answer()
        self._ask(plain(value), lambda found: setattr(answer, "value", found))
        return answer

    def _ask(self, value: Tensor, use: Callable[[int], None]) -> None:
        self._asked.setdefault(value.device, []).append((value, use))

    def settle(self) -> None:
        """Wait, and use the answers in the order of the questions."""
        asked, self._asked = self._asked, {}
        for questions in asked.values():
            found = torch.stack([value.long() for value, _ in questions]).tolist()
            for (_, use), value in zip(questions, found, strict=True):
                use(value)


_GATHERED: ContextVar[Together | None] = ContextVar("_GATHERED", default=None)


@contextmanager
def together() -> Iterator[Together]:
    """Checks of values that are made within, also by the functions below, are decided at its end by one wait.

    What is computed within from values that may turn out wrong must not fail for that, least of all on a device: clamp
    an index before it is used. If something does fail, the checks before it come first::

        with together() as gathered:
            check_finite("pos", pos, "atom")
            check_range(edge_index, atoms)
            structures = gathered.number(batch.max() + 1)
        print(structures.value)
    """
    gathered = Together()
    if torch.compiler.is_compiling():
        yield gathered
        gathered.settle()
        return
    token = _GATHERED.set(gathered)
    try:
        yield gathered
    except (IndexError, RuntimeError):
        gathered.settle()
        raise
    finally:
        _GATHERED.reset(token)
    gathered.settle()


def require(ok: Bool[Tensor, ""], error: Callable[[], Exception]) -> None:
    """Raise `error()` unless `ok`: now, or at the end of the block of :func:`together` around this.

    To be called only where :func:`looks_at_values`; then `ok` costs nothing where nobody looks.
    """
    gathered = _GATHERED.get()
    if gathered is not None:
        gathered.require(ok, error)
        return
    alone = Together()
    alone.require(ok, error)
    alone.settle()


def check_type(name: str, value: object, hint: object, wanted: str) -> None:
    """TypeError unless `value` is of the type `hint`, in words `wanted`."""
    from beartype.door import is_bearable  # here, since importing it takes as long as the rest of the package

    if not is_bearable(value, hint):  # pyright: ignore[reportArgumentType]
        raise TypeError(f"{name} must be {wanted}, got {value!r} of type {type(value).__name__}")


def check_number(
    name: str,
    value: float | None,
    least: float,
    *,
    whole: bool = True,
    unbounded: bool = False,
    exclusive: bool = False,
) -> None:
    """ValueError or TypeError unless `value` is a number ≥ `least` (> with `exclusive`); None passes.

    An int where it must be `whole`; with `unbounded` infinity and whole floats pass too.
    """
    if value is None:
        return
    wanted = "a whole number" if whole else "a number"
    check_type(name, value, int if whole and not unbounded else int | float, wanted)
    if isinstance(value, bool) or (whole and math.isfinite(value) and value != int(value)):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if not (value > least if exclusive else value >= least):
        raise ValueError(f"{name} must be {'greater than' if exclusive else 'at least'} {least}, got {value!r}")


def per_degree(name: str, value: int | Sequence[int], degrees: int) -> tuple[int, ...]:
    """One entry per degree, from a number for all or a sequence."""
    check_type(name, value, int | Sequence, "a whole number or a sequence of them, one per degree")
    values = (value,) * degrees if isinstance(value, int) else tuple(value)
    for entry in values:
        check_type(name, entry, int, f"a whole number or a sequence of them, one per degree, in {value!r}")
        check_number(name, entry, 1)
    if len(values) != degrees:
        raise ValueError(f"{name} must have one entry for each of the {degrees} degrees, got {values}")
    return values


def check_shape(name: str, tensor: Tensor, wanted: Sequence[int | None], words: str) -> None:
    """ValueError unless the shape matches `wanted`, where None stands for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or any(w is not None and w != s for w, s in zip(wanted, shape, strict=True)):
        sizes = ", ".join("any" if w is None else str(w) for w in wanted) + "," * (len(wanted) == 1)
        raise ValueError(f"{name} must have shape {words} = ({sizes}), got {shape}")


def check_tensor(name: str, value: object) -> Tensor:
    """TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    return value


def is_integer(tensor: Tensor) -> bool:
    """Whether the dtype is one of the integers (bool is not)."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_tokens(name: str, tokens: Tensor, count: int) -> Tensor:
    """The tokens as int64; ValueError unless they lie in 0 … count − 1."""
    tokens = tokens.long()
    check_within(name, tokens, count)
    return tokens


def check_within(name: str, index: Int[Tensor, ...], count: int, of: str = "") -> None:
    """ValueError unless all lie in 0 … count − 1; `of` says what they index, with {count} where their number goes."""

    def error() -> ValueError:
        low, high = (int(bound) for bound in plain(index).aminmax())
        return ValueError(
            f"{name} must lie in 0 … {count - 1}{of.format(count=count)}, got values from {low} to {high}"
        )

    if not looks_at_values() or not index.numel():
        return
    if count < 1:
        raise error()  # now, since nothing can be computed with such an index
    require((index.clamp(0, count - 1) == index).all(), error)


def check_not_negative(name: str, index: Int[Tensor, ...]) -> None:
    """ValueError unless all are at least zero."""

    def error() -> ValueError:
        low, high = (int(bound) for bound in plain(index).aminmax())
        return ValueError(f"{name} must be at least 0, got values from {low} to {high}")

    if looks_at_values() and index.numel():
        require((index >= 0).all(), error)


def as_bool(name: str, tensor: Tensor) -> Bool[Tensor, ...]:
    """A bool tensor from bool or 0/1 numbers."""
    if tensor.dtype == torch.bool:
        return tensor
    wrong = ValueError(f"{name} must hold booleans or 0/1 numbers, got other values ({tensor.dtype})")
    if tensor.is_complex():
        raise wrong
    if looks_at_values():
        require(((tensor == 0) | (tensor == 1)).all(), lambda: wrong)
    return tensor != 0


def check_coordinates(coors: object) -> Tensor:
    """(b, n, 3) or, flat, (n, 3) floating point, in at least float32."""
    coors = check_tensor("coors", coors)
    if coors.ndim == 2:
        check_shape("coors", coors, (None, 3), "(points, 3)")
    else:
        check_shape("coors", coors, (None, None, 3), "(batch, points, 3)")
    check_floating("coors", coors)
    return coors.float() if coors.dtype in (torch.float16, torch.bfloat16) else coors


def check_finite(name: str, x: Tensor, which: str) -> None:
    """ValueError where a row has a NaN or an infinity; in words, `which` rows may not."""

    def error() -> ValueError:
        rows = plain(x).reshape(-1, *x.shape[1:])
        bad = (~rows.isfinite()).flatten(1).any(1).nonzero()[0, 0]
        return ValueError(f"{name} must be finite for every {which}, got {rows[bad].tolist()}")

    if looks_at_values():
        require((x - x == 0).all(), error)  # neither infinity nor NaN: in three operations, not six


def check_absent(arguments: Mapping[str, object], why: str) -> None:
    """ValueError for the first of these arguments that is not None."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} {why}")


def check_integers(name: str, value: object, wanted: Sequence[int | None], words: str) -> Int[Tensor, ...]:
    """An integer tensor of a shape, as int64."""
    tensor = check_tensor(name, value)
    if not is_integer(tensor):
        raise TypeError(f"{name} must be integers, got {tensor.dtype}")
    check_shape(name, tensor, wanted, words)
    return tensor.long()


def check_batch(batch: object, points: int, structures: int | None) -> tuple[Int[Tensor, " points"], int]:
    """The structure of each flat point, and how many structures there are: one more than the largest if None."""
    index = check_integers("batch", batch, (points,), "(points,)")
    if structures is None:
        structures = number_from_data(plain(index).max()) + 1 if points else 0
    check_within("batch", index, structures)
    return index, structures


def check_cell(cell: object) -> Float[Tensor, "structures 3 3"]:
    """Cells; (3·structures, 3), as PyG puts matrices (3, 3) together, are taken apart."""
    cell = check_tensor("cell", cell)
    check_floating("cell", cell)
    if cell.ndim == 2 and cell.shape[0] % 3 == 0 and cell.shape[1] == 3:
        cell = cell.unflatten(0, (-1, 3))
    check_shape("cell", cell, (None, 3, 3), "(structures, 3, 3), or (3, 3) for one")
    return cell


def check_range(edge_index: Int[Tensor, "two edges"], points: int) -> None:
    """ValueError unless all are indices of points."""
    check_within("edge_index", edge_index, points, " for {count} points")


def check_offsets(offsets: object, edges: int) -> Tensor:
    """Whole numbers (edges, 3), of an integer dtype or a floating one."""
    offsets = check_tensor("cell_offsets", offsets)
    check_shape("cell_offsets", offsets, (edges, 3), "(edges, 3)")
    if not (offsets.is_floating_point() or is_integer(offsets)):
        raise TypeError(f"cell_offsets must be whole numbers, got {offsets.dtype}")
    if offsets.is_floating_point() and looks_at_values():
        wrong = ValueError(f"cell_offsets must be whole numbers, got others ({offsets.dtype})")
        require((offsets == offsets.round()).all(), lambda: wrong)
    return offsets.detach()


def check_edges(
    senders: Int[Tensor, " edges"],
    receivers: Int[Tensor, " edges"],
    offsets: Tensor | None,
    structure: Int[Tensor, " points"],
    name: Int[Tensor, " points"],
) -> None:
    """ValueError for an edge from a point to itself, or between structures; `name` is what the caller calls points."""
    if not looks_at_values() or not senders.numel():
        return
    itself = senders == receivers
    if offsets is not None:
        itself = itself & (offsets == 0).all(1)
    # Indices may be out of range as long as the check of that is to be decided.
    last = structure.shape[0] - 1
    apart = structure[senders.clamp(0, last)] != structure[receivers.clamp(0, last)]

    def loop() -> ValueError:
        point = int(name[plain(senders)[plain(itself)][0]])
        return ValueError(
            f"edge_index must not have edges from a point to itself (an image of the point has a cell offset, and"
            f" attend_self of Equiformer needs none), got one of point {point}"
        )

    def between() -> ValueError:
        ends = [int(name[plain(index)[plain(apart)][0]]) for index in (senders, receivers)]
        return ValueError(
            f"edge_index must stay within the structures of batch, got an edge from {ends[0]} to {ends[1]}"
        )

    require(~itself.any(), loop)
    require(~apart.any(), between)


def check_degrees(inputs: object, degrees: int) -> dict[int, Tensor]:
    """The input features by degree, as a new dict."""
    if isinstance(inputs, Tensor):
        inputs = {0: inputs}
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs must be a tensor or a dict of tensors by degree, got {type(inputs).__name__}")
    if set(inputs) != set(range(degrees)):
        raise ValueError(
            f"inputs must have degrees 0 … {degrees - 1} (input_degrees = {degrees}), got {sorted(inputs)}"
        )
    return {degree: check_tensor(f"inputs[{degree}]", inputs[degree]) for degree in range(degrees)}


def check_floating(name: str, tensor: Tensor, why: str = "") -> None:
    """TypeError unless the dtype is a floating one."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point{' ' * bool(why)}{why}, got {tensor.dtype}")
