"""What every model of the energies of atoms can do, whichever family it is of."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from jaxtyping import Float64
from torch import Tensor, nn

from equiformer_pytorch.base.saved import plain_name, write_saved
from equiformer_pytorch.base.tracing import lasting_tensors

HEAVIEST = 118


@dataclass(frozen=True)
class Target:
    """Something to predict beside energy, forces and stress: `channels` features of one degree.

    Per atom, or per structure as the sum over its atoms. Degree 1 is (x, y, z), e.g. a dipole moment:
    ``Target(1, "structure")``. With `reflection_equivariant` a target has parity (−1)^degree.
    """

    degree: int
    """0: a number; 1: a vector; l: 2l + 1 components in e3nn's real basis."""
    per: Literal["atom", "structure"] = "atom"
    """Of each atom, or of the structure as a whole."""
    channels: int = 1
    """How many of them, as one target; with more than one it has a dimension for them."""


@dataclass(frozen=True)
class Input:
    """A number that structures or atoms come with beside their geometry, e.g. a charge: ``Input(least=-4, most=4)``.

    Whole numbers from `least` to `most` each have an embedding of their own; without these bounds any number will do.
    """

    per: Literal["structure", "atom"] = "structure"
    """Whether each structure has one, or each atom."""
    least: int | None = None
    """Smallest whole number; with `most`, or neither."""
    most: int | None = None
    """Largest whole number."""
    default: float = 0
    """Of structures that do not say."""


class Potential(nn.Module, ABC):
    """All that calculator, files, data and training know of a model. Units are eV, Å, eV/Å and eV/Å³."""

    family: ClassVar[str]
    """The stable name that files bear, by which :func:`~equiformer_pytorch.atoms.load_potential` finds the class."""
    config: dict[str, Any]
    """The constructor's arguments, as plain values."""
    cutoff: float
    """Radius within which atoms see each other, Å."""
    max_neighbors: int | None
    """At most so many nearest neighbours of an atom; None: all within the cutoff."""
    strict_neighbors: bool = True
    """False: more than that where neighbours are hardly farther than the first that would be left out, see
    :func:`~equiformer_pytorch.atoms.radius_graph`."""
    use_pbc: bool = True
    """Whether the model sees structures repeated along their cell vectors."""
    targets: Mapping[str, Target] = MappingProxyType({})
    """What it gives beside energy, forces and stress."""
    inputs: Mapping[str, Input] = MappingProxyType({})
    """What it takes beside species, positions and cells."""

    @property
    @abstractmethod
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers that it takes."""

    @property
    @abstractmethod
    def gives(self) -> frozenset[str]:
        """What :meth:`evaluate` can give: of "energy", "forces" and "stress" those that the model knows of, and the
        names of the targets."""

    @property
    def parts(self) -> frozenset[str]:
        """What it can give of each atom with `per_atom`: of "energies" and "stresses" those that it knows of."""
        return frozenset()

    @abstractmethod
    def evaluate(
        self,
        structures: Mapping[str, Any],
        *,
        forces: bool = True,
        stress: bool = False,
        per_atom: bool = False,
        through: Callable[..., Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """``energy`` (structures,) in float64, ``forces`` (atoms, 3) where the model gives them, ``stress``
        (structures, 3, 3), and its targets; by atom ``energies`` (atoms,) and ``stresses`` (atoms, 3, 3).

        Args:
            structures: `atomic_numbers`, `pos`, `batch`, and `cell`, `pbc`, `edge_index`, `cell_offsets` where there
                are such, as batches of :func:`~equiformer_pytorch.atoms.collate_structures`, and the model's `inputs`
                by name; other entries are left aside. Without edges they are found.
            forces, stress: whether to compute them.
            per_atom: also the parts of energy and stress, where one is wanted, of each atom, which add up to them.
            through: what to call instead of this model: ``DistributedDataParallel`` around it.

        Raises:
            ValueError: a stress is wanted of a model that gives none, or of structures without volume; and as the
                model's own call.
        """

    @abstractmethod
    def element_energies(self) -> Float64[Tensor, " elements"]:
        """The reference energy of each atomic number, eV; zero where there is none."""

    @abstractmethod
    def shift_element_energies(self, shift: Float64[Tensor, " elements"]) -> None:
        """Add `shift`, eV by atomic number, to the reference energies; all else stays."""

    def about(self) -> dict[str, str]:
        """What else there is to be said of the model in a few words, by headings."""
        return {}

    def leave_out_stress_head(self) -> None:
        """For training without stress, in which a head of its own would fall behind. A stress that is the gradient of
        the energy stays."""

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Potential:
        """The model of a file that :meth:`save` wrote, or that others of its family did. Runs no code of the file's.

        Args:
            source: the file, or its contents.

        Raises:
            ValueError: it holds another model, or none.
        """

    @classmethod
    def from_file(cls, contents: Mapping[str, Any]) -> Potential:
        """The model of the contents of a file, in evaluation mode; with averaged weights, where it has some."""
        return cls.from_checkpoint(contents).eval()

    @classmethod
    @abstractmethod
    def recognises(cls, weights: Mapping[str, Tensor]) -> bool:
        """Whether weights of a file that names no model, by plain name, are of this family."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        with lasting_tensors():  # weights that are moved or cast in inference mode can be trained after it
            super()._apply(fn, recurse)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model, configuration and weights to a file, `path`, for :meth:`from_checkpoint`; whole, or the old file
        stays.

        Weights have their plain names, also where a part of the model is compiled or wrapped.
        """
        weights = {plain_name(name): value for name, value in self.state_dict().items()}
        write_saved({"model": self.family, "config": self.config, "state_dict": weights, **self._beside()}, path)

    def _beside(self) -> dict[str, Any]:
        """What else a file of this family holds."""
        return {}
