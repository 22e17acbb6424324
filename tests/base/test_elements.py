"""Elements by number and by symbol, also where a potential is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.base.elements import SYMBOLS, atomic_numbers


def test_symbols_are_those_of_ase() -> None:
    data = pytest.importorskip("ase.data")
    assert data.chemical_symbols == SYMBOLS


@pytest.mark.parametrize(
    "species",
    [["H", "O"], ("H", 8), [1, 8], np.array([1, 8]), torch.tensor([1, 8]), {"H": 1, "O": 2}, np.array(["H", "O"])],
)
@pytest.mark.unchecked  # arrays and dicts are taken, and sequences promised
def test_species_of_any_kind(species) -> None:
    potential = EquiformerPotential(species=species, dim=4, depth=1, num_degrees=2)
    assert potential.species == [1, 8] == potential.config["species"]
    assert all(type(number) is int for number in potential.species)


def unchecked(*case: object) -> object:
    """Of a wrong type on purpose."""
    return pytest.param(*case, marks=pytest.mark.unchecked)


@pytest.mark.parametrize(
    ("species", "error", "words"),
    [
        (["O1"], ValueError, "'O1'"),
        (["h"], ValueError, "'h'"),
        (["X"], ValueError, "'X'"),
        ([0], ValueError, "got 0"),
        ([119], ValueError, "got 119"),
        unchecked([1.5], ValueError, r"got 1\.5"),
        ([True], ValueError, "got True"),
        unchecked([None], ValueError, "got None"),
        (["H", 1], ValueError, r"\['H'\] twice"),
        ([], ValueError, "got none"),
        ("HO", TypeError, "got 'HO'"),
        unchecked(None, TypeError, "got None"),
        unchecked(8, TypeError, "got 8"),
    ],
)
def test_what_is_no_species(species, error, words) -> None:
    with pytest.raises(error, match=rf"species must be .*symbols.*{words}"):
        EquiformerPotential(species=species)


def test_an_element_may_be_there_twice() -> None:
    """As in LAMMPS, whose types may be of one element."""
    assert atomic_numbers("elements", ["H", 1, 8]) == [1, 1, 8]
