"""Labels of any name, virials, targets, and what is said of names that nothing reads."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ase", reason="needs the extra atoms")

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import Input, Target, collate_structures, load_structures, predict
from equiformer_pytorch.atoms.tensors import basis, isotropic_part, matrices_of, traceless_part
from equiformer_pytorch.irr_repr import irr_repr, rot
from tests.atoms.databases import connect

CUTOFF = 3.0
RNG = np.random.default_rng(0)


def symmetric() -> np.ndarray:
    half = RNG.normal(size=(3, 3))
    return half + half.T


def saved(folder: Path, *frames: Atoms) -> Path:
    path = folder / "data.xyz"
    write(path, list(frames), format="extxyz")
    return path


def crystal(**info: object) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info.update(info)
    return atoms


def water(energy: str, forces: str) -> Atoms:
    atoms = molecule("H2O")
    atoms.info[energy] = RNG.normal()
    atoms.arrays[forces] = RNG.normal(size=(3, 3))
    return atoms


@pytest.mark.parametrize(
    ("energy", "forces"),
    [
        *[("REF_energy", "REF_forces"), ("dft_energy", "dft_force"), ("Energy", "Forces"), ("E", "F")],
        *[("free_energy", "force"), ("total_energy", "f_total"), ("mace-energy", "mace_forces")],
    ],
)
@pytest.mark.parametrize("suffix", ["xyz", "db"])
def test_other_names(tmp_path: Path, energy: str, forces: str, suffix: str) -> None:
    atoms = water(energy, forces)
    path = saved(tmp_path, atoms)
    if suffix == "db":
        path = tmp_path / "data.db"
        with connect(path) as database:
            plain = Atoms(atoms.numbers, atoms.positions)
            database.write(plain, data={energy: atoms.info[energy], forces: atoms.arrays[forces]})
    item = load_structures(path, CUTOFF, keys={"energy": energy, "forces": forces})[0]
    assert item["energy"].item() == pytest.approx(atoms.info[energy], abs=1e-7)
    np.testing.assert_allclose(item["forces"], atoms.arrays[forces], atol=1e-6)


@pytest.mark.parametrize("name", ["REF_energy", "dft_energy", "Energy", "free_energy", "etot"])
def test_energies_that_nothing_reads_are_said_once(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, *[water(name, "other") for _ in range(5)])
    with pytest.warns(UserWarning, match=rf"data\.xyz: nothing reads {name} \(in 5 of 5 records\)") as said:
        load_structures(path, CUTOFF)
    assert len(said) == 1
    assert f'keys={{"energy": "{name}"}}' in str(said[0].message)


def test_all_names_that_nothing_reads(tmp_path: Path) -> None:
    atoms = water("energy_dft", "force")
    strange = crystal(REF_stress=symmetric(), forcefield="uff", energies_of_bands=np.arange(4.0))
    with pytest.warns(UserWarning, match="nothing reads") as said:
        load_structures(saved(tmp_path, atoms, strange), CUTOFF)
    assert len(said) == 1
    text = str(said[0].message)
    for name in ("energy_dft", "force", "REF_stress"):
        assert f"{name} (in 1 of 2 records)" in text
    assert "forcefield" not in text
    assert "bands" not in text


def test_what_stands_beside_a_label_is_no_news(tmp_path: Path) -> None:
    """ASE's calculators leave more than they are asked for."""
    atoms = molecule("H2O")
    results = {"energy": 1.0, "free_energy": 1.0, "energies": np.ones(3), "forces": np.zeros((3, 3))}
    atoms.calc = SinglePointCalculator(atoms, **results, stress=np.zeros(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_structures(saved(tmp_path, atoms), CUTOFF)


def test_other_energy_beside_the_one_that_is_read(tmp_path: Path) -> None:
    atoms = water("dft_energy", "dft_forces")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((3, 3)))
    with pytest.warns(UserWarning, match=r"nothing reads dft_forces .* dft_energy"):
        assert load_structures(saved(tmp_path, atoms), CUTOFF)[0]["energy"] == 1


def test_a_name_that_no_record_has(tmp_path: Path) -> None:
    path = saved(tmp_path, water("Energy", "forces_dft"))
    with pytest.warns(UserWarning, match=r"keys\['energy'\] names 'energie', which no record has; nothing reads"):
        load_structures(path, CUTOFF, keys={"energy": "energie"})


@pytest.mark.parametrize("name", ["virial", "virials", "REF_virial", "dft_virials"])
@pytest.mark.parametrize("form", ["3x3", "nine", "six"])
@pytest.mark.parametrize("as_stress", [False, True])
def test_virials_become_stresses(tmp_path: Path, name: str, form: str, as_stress: bool) -> None:
    virial = symmetric()
    xx, xy, xz, _, yy, yz, _, _, zz = virial.flatten()
    value = {"3x3": virial, "nine": virial.flatten(), "six": np.array([xx, yy, zz, yz, xz, xy])}[form]
    atoms = crystal(placeholder=0)
    path = saved(tmp_path, atoms)
    numbers = " ".join(map(repr, map(float, value.flatten())))
    path.write_text(path.read_text().replace("placeholder=0", f'{name}="{numbers}"'))
    keys = {"stress" if as_stress else "virial": name}
    for given in [keys] + [None] * (name in ("virial", "virials")):
        stress = load_structures(path, CUTOFF, dtype=torch.float64, keys=given)[0]["stress"]
        np.testing.assert_allclose(stress, -virial / atoms.get_volume(), rtol=1e-12)


def test_the_sign_of_a_virial(tmp_path: Path) -> None:
    """A crystal under tension, V = 43.904 Å³: σ = 0.1 eV/Å³ along x is a virial of −4.3904 eV."""
    atoms = crystal(virial=np.diag([-4.3904, 0.0, 0.0]))
    stress = load_structures(saved(tmp_path, atoms), CUTOFF)[0]["stress"]
    np.testing.assert_allclose(stress, np.diag([0.1, 0, 0]), rtol=1e-5)


@pytest.mark.parametrize("name", ["gradient", "REF_gradients", "dft_grad"])
def test_a_gradient_is_minus_the_forces(tmp_path: Path, name: str) -> None:
    atoms = molecule("H2O")
    atoms.arrays[name] = np.arange(9.0).reshape(3, 3)
    path = saved(tmp_path, atoms)
    with pytest.warns(UserWarning, match=f'keys={{"forces": "{name}"}}'):
        load_structures(path, CUTOFF)
    forces = load_structures(path, CUTOFF, keys={"forces": name})[0]["forces"]
    assert torch.equal(forces, -torch.arange(9.0).reshape(3, 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [("E", -1.0), ("U0", -1.0), ("e_dft", -1.0), ("F", "forces"), ("f_ref", "forces"), ("sigma", "stress")],
)
def test_short_names_are_said_too(tmp_path: Path, name: str, value: Any) -> None:
    atoms = bulk("Al", cubic=True)
    if value == "forces":
        atoms.arrays[name] = np.ones((4, 3))
    else:
        atoms.info[name] = np.arange(9.0) if value == "stress" else value
    with pytest.warns(UserWarning, match=rf"nothing reads {name} \(in 1 of 1 records\)"):
        load_structures(saved(tmp_path, atoms), CUTOFF)


def test_a_stress_goes_before_a_virial(tmp_path: Path) -> None:
    atoms = crystal(virial=np.eye(3))
    atoms.calc = SinglePointCalculator(atoms, stress=np.arange(6.0))
    np.testing.assert_allclose(load_structures(saved(tmp_path, atoms), CUTOFF)[0]["stress"].diagonal(), [0, 1, 2])


@pytest.mark.parametrize("suffix", ["db", "json", "aselmdb", "traj"])
def test_stress_of_nine_numbers(tmp_path: Path, suffix: str) -> None:
    if suffix == "aselmdb":
        pytest.importorskip("ase_db_backends")
    stress, path = symmetric(), tmp_path / f"data.{suffix}"
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, stress=stress)
    if suffix == "traj":
        write(path, atoms)
    else:
        with connect(path) as database:
            database.write(atoms)
    np.testing.assert_allclose(load_structures(path, CUTOFF, dtype=torch.float64)[0]["stress"], stress, rtol=1e-12)


@pytest.mark.parametrize("numbers", ["1 2 3 4 5 6", "1 6 5 6 2 4 5 4 3"])
@pytest.mark.parametrize("name", ["stress", "REF_stress"])
def test_forms_of_a_stress(tmp_path: Path, numbers: str, name: str) -> None:
    path = saved(tmp_path, crystal(placeholder=0))
    path.write_text(path.read_text().replace("placeholder=0", f'{name}="{numbers}"'))
    stress = load_structures(path, CUTOFF, keys={"stress": name})[0]["stress"]
    assert stress.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]


WRONG = [
    (crystal(REF_stress=np.arange(4.0)), {"stress": "REF_stress"}, "REF_stress: 4 numbers, wanted 9 or 6"),
    (molecule("H2O"), {}, "virial: a virial needs a cell with a volume"),
    (crystal(REF_energy=np.arange(2.0)), {"energy": "REF_energy"}, r"REF_energy: shape \(2,\), wanted \(\)"),
    (crystal(REF_energy="low"), {"energy": "REF_energy"}, "REF_energy: 'low' is no array of numbers"),
    (crystal(Forces=np.ones(3)), {"forces": "Forces"}, r"Forces: shape \(3,\), wanted \(2, 3\)"),
    (crystal(Energy=np.nan), {"energy": "Energy"}, "energy: not finite"),
]
WRONG[1][0].info["virial"] = np.eye(3)


@pytest.mark.parametrize(("atoms", "keys", "said"), WRONG, ids=[said[:12] for *_, said in WRONG])
def test_labels_of_a_wrong_form(tmp_path: Path, atoms: Atoms, keys: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.xyz, record 0: {said}"):
        load_structures(saved(tmp_path, atoms), CUTOFF, keys=keys)


def test_arguments(tmp_path: Path) -> None:
    path = saved(tmp_path, crystal())
    with pytest.raises(ValueError, match=r"keys must be of .*'virial'\], got \['hessian'\]"):
        load_structures(path, CUTOFF, keys={"hessian": "H"})
    with pytest.raises(ValueError, match=r"targets must have names of their own, got \['pos'\]"):
        load_structures(path, CUTOFF, targets={"pos": Target(1)})


def test_unknown_symbols_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pdb.xyz"
    path.write_text("1\n\nO1 0 0 0\n")
    with pytest.raises(ValueError, match=r"pdb\.xyz, record 0: unknown species 'O1'"):
        load_structures(path, CUTOFF)


@pytest.mark.parametrize("suffix", ["xyz", "extxyz", "json", "vasp"])
def test_a_byte_order_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"marked.{suffix}"
    write(path, [crystal()] if suffix != "vasp" else crystal(), format="extxyz" if "xyz" in suffix else None)
    plain = load_structures(path, CUTOFF)[0]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = load_structures(path, CUTOFF)[0]
    assert all(torch.equal(plain[name], marked[name]) for name in plain)


# ---- isolated atoms


def test_isolated_atoms(tmp_path: Path) -> None:
    """One atom that nothing surrounds, or that is said to be alone."""
    boxed = Atoms("O", cell=[2, 2, 2], pbc=True, info={"config_type": "IsolatedAtom"})
    frames = [Atoms("H"), boxed, Atoms("O", cell=[9, 9, 9], pbc=True), bulk("Al"), molecule("H2O")]
    flags = [bool(item.get("isolated", False)) for item in load_structures(saved(tmp_path, *frames), CUTOFF)]
    assert flags == [True, True, True, False, False]
    assert "isolated" not in collate_structures(load_structures(tmp_path / "data.xyz", CUTOFF).items)


# ---- targets


def test_targets(tmp_path: Path) -> None:
    targets = {
        "dipole": Target(1, "structure"),
        "charges": Target(0),
        "gap": Target(0, "structure"),
        "tensors": Target(2, channels=2),
    }
    frames = [molecule("H2O"), molecule("N2"), molecule("CH4")]
    for atoms in (frames[0], frames[2]):
        atoms.calc = SinglePointCalculator(atoms, dipole=RNG.normal(size=3), charges=RNG.normal(size=len(atoms)))
        atoms.info["homo_lumo"] = RNG.normal()
        atoms.arrays["tensors"] = RNG.normal(size=(len(atoms), 10))
    data = load_structures(saved(tmp_path, *frames), CUTOFF, targets=targets, keys={"gap": "homo_lumo"})
    batch = collate_structures(data.items)
    assert batch["dipole"].shape == (3, 3)
    assert batch["charges"].shape == (10,)
    assert batch["gap"].shape == (3,)
    assert batch["tensors"].shape == (10, 2, 5)
    for name in targets:
        assert batch[f"has_{name}"].tolist() == [True, False, True]
    np.testing.assert_allclose(batch["dipole"][[0, 2]], [frames[i].calc.results["dipole"] for i in (0, 2)], atol=1e-6)
    np.testing.assert_allclose(batch["charges"][5:], frames[2].calc.results["charges"], atol=1e-6)
    np.testing.assert_allclose(batch["tensors"][5:].flatten(1), frames[2].arrays["tensors"], atol=1e-6)
    assert (batch["charges"][3:5] == 0).all()


@pytest.mark.parametrize("form", ["nine", "six"])
def test_polarizabilities(tmp_path: Path, form: str) -> None:
    """One matrix, two targets."""
    alpha = symmetric()
    atoms = molecule("H2O")
    atoms.info["polarizability"] = alpha.flatten() if form == "nine" else alpha[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    targets = {f"polarizability_{degree}": Target(degree, "structure") for degree in (0, 2)}
    item = load_structures(saved(tmp_path, atoms), CUTOFF, targets=targets, dtype=torch.float64)[0]
    assert item["polarizability_0"].shape == (1,)
    assert item["polarizability_2"].shape == (1, 5)
    back = matrices_of(item["polarizability_0"].numpy(), item["polarizability_2"].numpy())
    np.testing.assert_allclose(back[0], alpha, atol=1e-8)


def test_matrices_turn_as_degree_two() -> None:
    angles = (0.3, 1.1, -2.0)
    turn, alpha = rot(*angles).double().numpy(), symmetric()[None]
    turned = np.einsum("ij,rjk,lk->ril", turn, alpha, turn)
    expected = traceless_part(alpha) @ irr_repr(2, torch.tensor(angles)).double().numpy().T
    np.testing.assert_allclose(traceless_part(turned), expected, atol=1e-6)
    np.testing.assert_allclose(isotropic_part(turned), isotropic_part(alpha), atol=1e-6)
    np.testing.assert_allclose(isotropic_part(alpha) ** 2 + (traceless_part(alpha) ** 2).sum(1), (alpha**2).sum((1, 2)))
    np.testing.assert_allclose(np.einsum("mij,nij->mn", basis(), basis()), np.eye(5), atol=1e-12)


def test_targets_of_a_wrong_form(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info["dipole"] = np.ones(2)
    with pytest.raises(ValueError, match=re.escape("record 0: dipole: shape (2,), wanted (3,) for the target dipole")):
        load_structures(saved(tmp_path, atoms), CUTOFF, targets={"dipole": Target(1, "structure")})


def test_inputs(tmp_path: Path) -> None:
    """Charges and other numbers of structures and of atoms that potentials take; defaults for those that do not say."""
    frames = [molecule("H2O") for _ in range(3)]
    frames[0].info["charge"] = -1
    frames[1].info["total_spin"] = 3
    frames[1].arrays["field"] = np.array([0.1, 0.2, 0.3])
    frames[2].arrays["field"] = np.zeros(3)
    inputs = {"charge": Input(least=-2, most=2), "spin": Input(least=1, most=6, default=1), "field": Input("atom")}
    given = {"inputs": inputs, "keys": {"spin": "total_spin"}}
    path = saved(tmp_path, *frames)
    data = load_structures(path, CUTOFF, **given)
    assert [item["charge"].item() for item in data] == [-1, 0, 0]
    assert [item["spin"].item() for item in data] == [1, 3, 1]
    assert torch.equal(data[1]["field"], torch.tensor([0.1, 0.2, 0.3]))
    lazy = load_structures(path, CUTOFF, lazy=True, **given)
    assert all(torch.equal(lazy[0][name], data[0][name]) for name in inputs)
    batch = collate_structures([data[0], data[1], data[2]])
    assert batch["charge"].tolist() == [-1, 0, 0]
    assert batch["field"].shape == (9,)
    potential = EquiformerPotential(species=["H", "O"], dim=4, depth=1, num_degrees=2, inputs=inputs)
    with torch.no_grad():
        for weight in potential.from_inputs.weights.values():
            weight.normal_()
    exact = [
        potential.evaluate({**item, "cell": item["cell"][None], **{name: item[name].reshape(-1) for name in inputs}})
        for item in data
    ]
    assert (predict(potential, batch)["energy"] - torch.cat([each["energy"] for each in exact])).abs().max() < 1e-5
    assert abs(exact[0]["energy"] - exact[2]["energy"]) > 1e-3


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"charge": 3}, r"record 0: charge: 3, wanted whole numbers in -2 … 2"),
        ({"charge": 0.5}, "charge: 0.5, wanted"),
        ({"charge": "plus"}, "charge must be a number, got 'plus'"),
        ({"charge": [1, 2]}, "one number for each structure"),
    ],
)
def test_inputs_of_a_wrong_form(tmp_path: Path, info: dict[str, Any], said: str) -> None:
    atoms = molecule("H2O")
    atoms.info.update(info)
    with pytest.raises(ValueError, match=said):
        load_structures(saved(tmp_path, atoms), CUTOFF, inputs={"charge": Input(least=-2, most=2)})
    with pytest.raises(ValueError, match=r"inputs must have names of their own, got \['pos'\]"):
        load_structures(saved(tmp_path, atoms), CUTOFF, inputs={"pos": Input()})


def test_charges_that_nothing_takes_are_said_once(tmp_path: Path) -> None:
    frames = [molecule("H2O") for _ in range(4)]
    frames[1].info["charge"], frames[2].info["charge"], frames[3].info["spin"] = 1, 0, 1
    path = saved(tmp_path, *frames)
    words = r'no input takes charge \(in 1 of 4 records\); inputs=\{"charge": Input\(least=…, most=…\)\} would'
    with pytest.warns(UserWarning, match=words) as said:
        load_structures(path, CUTOFF)
    assert len(said) == 1
    load_structures(path, CUTOFF, inputs={"charge": Input(least=-1, most=1)})  # warnings are errors
