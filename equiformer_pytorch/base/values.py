"""Looking at values: together, by one wait for a device, or not at all.

Values may lie on a device that is still busy: whoever looks at one waits for it. So checks of values say what they want
of a tensor to :func:`require`; within :func:`together` they are decided at its end, all by one wait, and within
:func:`unchecked_values` not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equiformer_pytorch.base.tracing import plain

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
    """Checks of values that are made within, those of ``base/checks.py`` too, are decided at its end by one wait.

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
