"""From the features of atoms to what is read out of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from equiformer_pytorch.atoms.references import find_references
from equiformer_pytorch.base.checks import looks_at_values, require
from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.base.potential import HEAVIEST
from equiformer_pytorch.base.tracing import plain


class Head(nn.Module):
    r""":math:`y = \sum_c w_c(x_0)\, x_{l,c} / \sqrt{c_l}`: channels of one degree, weighted by a small network of the
    invariants."""

    def __init__(self, invariants: int, channels: int, channels_out: int) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.scale = channels**-0.5
        self.network = nn.Sequential(
            nn.Linear(invariants, invariants), nn.SiLU(), nn.Linear(invariants, channels_out * channels)
        )

    def forward(
        self, invariants: Float[Tensor, "atoms invariants"], features: Float[Tensor, "atoms channels orders"]
    ) -> Float[Tensor, "atoms channels_out orders"]:
        weights = self.network(invariants).unflatten(-1, (self.channels_out, -1))
        return torch.bmm(weights, features) * self.scale


def fit_element_energies(
    compositions: Sequence[Int[Tensor, " _"]], energies: Sequence[float]
) -> Float64[Tensor, " elements"]:
    """Energies by atomic number whose sums over the atoms come closest to these energies of structures; least squares,
    the smallest ones where compositions leave a choice, and zero for elements that do not occur.

    Args:
        compositions: the atomic numbers of each structure.
        energies: of each structure, eV.

    Raises:
        ValueError: there is no structure.
    """
    if not energies:
        raise ValueError("structures is empty: nothing to fit reference energies to")
    counts = torch.stack([torch.bincount(numbers.cpu(), minlength=HEAVIEST + 1) for numbers in compositions]).double()
    occur = counts.any(0)
    found = torch.zeros(HEAVIEST + 1, dtype=torch.float64)
    wanted = torch.tensor(energies, dtype=torch.float64)[:, None]
    found[occur] = torch.linalg.lstsq(counts[:, occur], wanted, driver="gelsd").solution[:, 0]
    return found


class AtomicEnergies(ExactConstants):
    r""":math:`E_i = E^0_{Z_i} + s\,\epsilon_i`, in float64 whatever the module is cast to."""

    references: Tensor
    scale: Tensor
    index_of: Tensor

    def __init__(self, species: Sequence[int]) -> None:
        super().__init__()
        if not species or len(set(species)) < len(species) or not all(1 <= z <= HEAVIEST for z in species):
            raise ValueError(f"species must be different atomic numbers of 1 … {HEAVIEST}, got {list(species)}")
        self.species = list(species)
        self.constant("index_of", _places, self.species)
        self.register_buffer("references", torch.zeros(len(species), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def index(self, atomic_numbers: Int[Tensor, " atoms"]) -> Int[Tensor, " atoms"]:
        """Place of each atom's species, −1 for others."""
        inside = atomic_numbers.clamp(0, HEAVIEST)
        return torch.where(inside == atomic_numbers, self.index_of[inside], -1)

    def check(self, atomic_numbers: Int[Tensor, " atoms"]) -> None:
        """ValueError unless all are of the species."""
        index = self.index(atomic_numbers)

        def error() -> ValueError:
            unknown = sorted(set(plain(atomic_numbers)[plain(index) < 0].tolist()))
            return ValueError(f"atomic_numbers has {unknown}, the potential knows species {self.species}")

        if looks_at_values():
            require((index >= 0).all(), error)

    def forward(self, x: Float[Tensor, " atoms"], index: Int[Tensor, " atoms"]) -> Float64[Tensor, " atoms"]:
        return self.references[index] + self.scale * x.double()

    def fit(self, structures: Iterable[Mapping[str, Tensor]]) -> None:
        """References from isolated atoms, else by least squares; scale from the forces, or from the energies where
        forces are absent or rounding: see :func:`find_references`. Where there is neither, the scale stays."""
        structures = list(structures)
        for structure in structures:
            self.check(structure["atomic_numbers"].to(self.index_of.device))
        found = find_references(structures)
        self.references.copy_(found.energies[self.species])
        if found.scale is not None:
            self.scale.fill_(found.scale)


def _places(species: Sequence[int]) -> Int[Tensor, " elements"]:
    """The place of each atomic number among the species, −1 for others."""
    places = torch.full((HEAVIEST + 1,), -1)
    places[torch.tensor(species)] = torch.arange(len(species))
    return places
