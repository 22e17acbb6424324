"""One structure, evaluated step after step: for the calculator, and for every program that moves atoms."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.atoms.embedding import as_inputs
from equiformer_pytorch.atoms.load import load_potential
from equiformer_pytorch.base import checks
from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.graph.periodic import radius_graph

Source = Potential | str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """Where the atoms are: arrays of numpy, lengths in Å."""

    numbers: np.ndarray
    """Atomic numbers (atoms,)."""
    positions: np.ndarray
    """(atoms, 3)."""
    cell: np.ndarray
    """Cell vectors as rows (3, 3); zero where there are none."""
    pbc: np.ndarray
    """Which of them repeat (3,)."""

    def copy(self) -> Frame:
        """Arrays of its own."""
        return Frame(self.numbers.copy(), self.positions.copy(), self.cell.copy(), self.pbc.copy())

    @property
    def has_volume(self) -> bool:
        """Whether there are three independent cell vectors: a stress is per volume."""
        return bool(np.linalg.matrix_rank(self.cell) == 3)


class KeptNeighbours:
    """Neighbours within cutoff + `skin`, found once and kept until an atom has moved by half the skin, or the cell, the
    species or the periodicity changed. Whatever is beyond the cutoff weighs nothing, so that numbers stay the same.

    Args:
        skin: in Å; 0 finds neighbours at every step. Models with a largest number of neighbours always do.
        device: where the edges are wanted.

    Raises:
        ValueError: the skin is negative.
    """

    def __init__(self, skin: float, device: torch.device) -> None:
        checks.check_number("skin", skin, 0, whole=False)
        self.skin, self.device = float(skin), device
        self.searches = 0
        self._kept: dict[tuple[float, int | None, bool, bool], tuple[Frame, Tensor, Tensor]] = {}

    def __call__(self, potential: Potential, frame: Frame) -> tuple[Tensor, Tensor]:
        """Senders and receivers (2, edges), and offsets (edges, 3), as far as a potential sees."""
        kind = (potential.cutoff, potential.max_neighbors, potential.strict_neighbors, potential.use_pbc)
        skin = self.skin if potential.max_neighbors is None else 0.0
        if kind in self._kept and _still_holds(self._kept[kind][0], frame, skin):
            return self._kept[kind][1:]
        edge_index, cell_offsets = radius_graph(
            torch.as_tensor(frame.positions, device="cpu"),
            potential.cutoff + skin,
            cell=torch.as_tensor(frame.cell, device="cpu")[None],
            pbc=torch.as_tensor(frame.pbc & potential.use_pbc, device="cpu")[None],
            max_neighbors=potential.max_neighbors,
            strict_neighbors=potential.strict_neighbors,
        )
        self.searches += 1
        self._kept[kind] = (frame.copy(), edge_index.to(self.device), cell_offsets.to(self.device))
        return self._kept[kind][1:]


def _still_holds(before: Frame, now: Frame, skin: float) -> bool:
    """Whether all neighbours within the cutoff are among those that were found before."""
    same = (
        np.array_equal(before.numbers, now.numbers)
        and np.array_equal(before.pbc, now.pbc)
        and np.array_equal(before.cell[before.pbc], now.cell[now.pbc])
    )
    if not same:
        return False
    moved = np.linalg.norm(now.positions - before.positions, axis=1).max(initial=0.0)
    return bool(moved < skin / 2 or moved == 0)


class Evaluator:
    """A potential of its own, in evaluation mode, for one structure at a time.

    Args:
        potential: of any kind, which is copied and stays as it is; or a file of one, as
            :func:`~equiformer_pytorch.atoms.load_potential` takes it.
        skin: see :class:`KeptNeighbours`.
        device: where to compute.
        dtype: of the weights, in which all is computed but differences of positions, which are float64; None keeps
            that of the weights. float64 for dynamics that conserve energy.
        neighbours: those that several share; None: its own.
    """

    def __init__(
        self,
        potential: Source,
        *,
        skin: float = 0.5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        neighbours: KeptNeighbours | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.neighbours = KeptNeighbours(skin, self.device) if neighbours is None else neighbours
        self.potential = own_potential(potential).to(device=self.device, dtype=dtype).eval()

    def __call__(
        self,
        frame: Frame,
        *,
        forces: bool = True,
        stress: bool = False,
        per_atom: bool = False,
        inputs: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """What :meth:`Potential.evaluate` gives of the frame, without gradients.

        Args:
            frame: the structure.
            forces, stress, per_atom: as there.
            inputs: numbers or arrays by name; the defaults of the potential for others.

        Raises:
            ValueError: as there, and for inputs that the potential does not take.
        """
        with torch.no_grad():
            return self.potential.evaluate(
                self.structure(frame, inputs or {}), forces=forces, stress=stress, per_atom=per_atom
            )

    def check(self, numbers: Sequence[int], inputs: Mapping[str, Any]) -> None:
        """For programs that cannot be told later: that the potential can move atoms of these elements.

        Raises:
            ValueError: it does not know one of them, gives no forces, or does not take these inputs of a structure.
        """
        potential = self.potential
        unknown = sorted(set(numbers).difference(potential.elements))
        if unknown:
            raise ValueError(f"elements has {unknown}, the potential knows {list(potential.elements)}")
        if "forces" not in potential.gives:
            raise ValueError(f"potential must give forces, it gives {sorted(potential.gives)}")
        as_inputs(inputs, potential.inputs, len(numbers))

    def structure(self, frame: Frame, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """A batch of one, with neighbours that are kept."""
        edge_index, cell_offsets = self.neighbours(self.potential, frame)
        given = as_inputs(inputs, self.potential.inputs, len(frame.numbers))
        return {
            **{name: x.reshape(-1).to(self.device) for name, x in given.items()},
            "atomic_numbers": torch.as_tensor(frame.numbers, dtype=torch.long, device=self.device),
            "pos": torch.as_tensor(frame.positions, dtype=torch.float64, device=self.device),
            "cell": torch.as_tensor(frame.cell, dtype=torch.float64, device=self.device)[None],
            "edge_index": edge_index,
            "cell_offsets": cell_offsets,
        }


@lasting_tensors()
def own_potential(source: Source) -> Potential:
    """A copy of a potential, or that of a file."""
    return copy.deepcopy(source) if isinstance(source, Potential) else load_potential(source)
