"""Reference energies and scales from data of all sorts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiformer_pytorch.atoms.heads import AtomicEnergies
from equiformer_pytorch.atoms.references import find_references

TRUE = {1: -13.6, 6: -1029.0, 8: -2042.0}
SYMBOLS = {1: "H", 6: "C", 8: "O"}
SIZES = ((8, 1, 1), (6, 1, 1, 1, 1), (6, 8), (1, 1), (6, 8, 8), (6, 6, 1, 1))
Structure = dict[str, Tensor]


def structure(numbers: tuple[int, ...], bound: float = 0.0, **labels: Tensor) -> Structure:
    """With the energy of its atoms, less `bound` eV for each."""
    energy = sum(TRUE[z] for z in numbers) - bound * len(numbers)
    return {"atomic_numbers": torch.tensor(numbers), "energy": torch.tensor(energy, dtype=torch.float64), **labels}


def alone(number: int, **changes: Tensor) -> Structure:
    return structure((number,)) | {"edge_index": torch.zeros(2, 0, dtype=torch.long)} | changes


def forces(structures: list[Structure], size: float) -> list[Structure]:
    return [item | {"forces": size * torch.randn(len(item["atomic_numbers"]), 3).double()} for item in structures]


def test_from_isolated_atoms() -> None:
    """Atomisation energies are left; by least squares H would have come out 4 eV lower."""
    bound = [structure(numbers, 4.3) for numbers in SIZES]
    found = find_references([*bound, alone(1), alone(8), alone(6)])
    assert found.isolated == (1, 6, 8)
    assert found.fitted == ()
    assert {z: found.energies[z].item() for z in TRUE} == pytest.approx(TRUE, abs=1e-9)
    assert find_references(bound).energies[1] < -17.5
    assert found.told(SYMBOLS) == "reference energies: H, C, O from isolated atoms"


def test_some_elements_alone() -> None:
    found = find_references([*[structure(numbers) for numbers in SIZES], alone(1)])
    assert (found.isolated, found.fitted) == ((1,), (6, 8))
    assert {z: found.energies[z].item() for z in TRUE} == pytest.approx(TRUE, abs=1e-6)
    assert found.told(SYMBOLS) == "reference energies: H from isolated atoms; C, O by least squares"


@pytest.mark.parametrize(
    ("atom", "isolated"),
    [
        (alone(1), True),
        (structure((1,)) | {"isolated": torch.tensor(True), "edge_index": torch.zeros(2, 6).long()}, True),
        (structure((1,)) | {"edge_index": torch.zeros(2, 12).long()}, False),  # a crystal of one atom
        (structure((1,)) | {"pbc": torch.tensor([True, True, True])}, False),
        (structure((1,)) | {"pbc": torch.zeros(3).bool()}, True),
        (structure((1,)), True),
    ],
)
def test_what_is_isolated(atom: Structure, isolated: bool) -> None:
    found = find_references([atom, *[structure(numbers, 2.0) for numbers in SIZES]])
    assert (1 in found.isolated) == isolated


def test_of_several_atoms_alone_the_lowest() -> None:
    excited = alone(1, energy=torch.tensor(-3.4))
    assert find_references([excited, alone(1), excited]).energies[1].item() == pytest.approx(-13.6)


def test_only_isolated_atoms() -> None:
    model = AtomicEnergies([1, 8])
    model.fit(forces([alone(1), alone(8)], 0.0))
    assert model.references.tolist() == pytest.approx([TRUE[1], TRUE[8]])
    assert model.scale == 1


def test_structures_without_energy_or_forces() -> None:
    both = forces([structure(numbers) for numbers in SIZES], 2.0)
    without = [{name: x for name, x in item.items() if name != "energy"} for item in both[:3]]
    model = AtomicEnergies([1, 6, 8])
    model.fit([*without, *[structure(numbers) for numbers in SIZES]])
    assert model.references.tolist() == pytest.approx(list(TRUE.values()), abs=1e-6)
    squares = torch.cat([item["forces"] for item in without]).square().mean()
    assert model.scale.item() == pytest.approx(squares.sqrt().item())
    model = AtomicEnergies([1, 6, 8])
    model.fit(without)
    assert (model.references == 0).all()
    assert find_references(without).told(SYMBOLS) == "reference energies: none, since no structure has an energy"


@pytest.mark.parametrize("size", [0.0, 1e-14, 1e-9, 1e-5])
def test_forces_of_symmetric_crystals_are_rounding(size: float) -> None:
    """An equation of state: the energies, which differ by 0.3 eV per atom, say how large things are."""
    volumes = torch.linspace(-1, 1, 11)
    crystals = [structure((6,) * 4, 0.3 * float(v)) for v in volumes]
    model = AtomicEnergies([6])
    model.fit(forces(crystals, size))
    expected = 0.3 * 2 * volumes.square().mean().sqrt()
    assert model.scale.item() == pytest.approx(expected.item(), rel=1e-4)
    assert not find_references(forces(crystals, size)).from_forces


@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_forces_that_are_more_than_rounding(size: float) -> None:
    crystals = forces([structure((6,) * 4, 0.3 * v) for v in (-1, 0, 1)], size)
    found = find_references(crystals)
    assert found.from_forces
    assert found.scale == pytest.approx(torch.cat([c["forces"] for c in crystals]).square().mean().sqrt().item())


def test_nothing_to_learn() -> None:
    """One energy, no forces: the scale stays what it was."""
    model = AtomicEnergies([6])
    model.scale.fill_(0.7)
    model.fit(forces([structure((6, 6))] * 3, 1e-14))
    assert model.scale.item() == pytest.approx(0.7)
    with pytest.raises(ValueError, match="structures is empty"):
        model.fit([])
