"""LAMMPS itself, by `fix external`: energy, forces, virial are ours; energy is conserved; boxes change."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiformer_pytorch.atoms import Input, Potential
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, build
from tests.clients.common import Atoms, assert_conserved, assert_near, crystal, molecule, needs, with_calculator
from tests.models import mostly_slow

lammps = needs("lammps", "lammps")
from equiformer_pytorch.clients.lammps import FIX, connect  # noqa: E402

pytestmark = pytest.mark.slow

ELEMENTS = (1, 6, 8)
MASSES = (1.008, 12.011, 15.999)
KCAL = 96.48533212331 / 4.184
"""Of an eV, in kcal/mol."""


@pytest.fixture(scope="module", autouse=True)
def _mpi() -> None:
    """The wheel wants libmpi.so.12 of the extra's mpich, which lies where only LD_LIBRARY_PATH finds it."""
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    ctypes.CDLL(str(library) if library.is_file() else "libmpi.so.12", ctypes.RTLD_GLOBAL)


@pytest.fixture
def program() -> Iterator[Any]:
    started = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    yield started
    started.close()


def set_up(program: Any, atoms: Atoms, units: str = "metal", boundary: str = "p p p") -> Atoms:
    """A box with the atoms, which are then as LAMMPS has them."""
    atoms = atoms.copy()
    if not atoms.cell.rank:
        atoms.center(vacuum=4)
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
    program.commands_string(
        f"units {units}\natom_style atomic\nboundary {boundary}\nbox tilt large\n"
        f"region box prism 0 {lx!r} 0 {ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r}\ncreate_box 3 box"
    )
    types = [ELEMENTS.index(number) + 1 for number in atoms.numbers]
    program.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.flatten().tolist())
    for kind, mass in enumerate(MASSES, 1):
        program.command(f"mass {kind} {mass}")
    program.commands_string("pair_style zero 2.0\npair_coeff * *\nneigh_modify every 1 delay 0 check yes")
    assert program.get_natoms() == len(atoms)
    return atoms


def as_now(program: Any, atoms: Atoms) -> Atoms:
    """Where LAMMPS has the atoms now, in their first order."""
    low, high, xy, yz, xz, periodic, _ = program.extract_box()
    x, y, z = np.subtract(high, low)
    order = np.argsort(program.numpy.extract_atom("id")[: len(atoms)])
    positions = program.numpy.extract_atom("x")[: len(atoms)][order]
    return Atoms(atoms.numbers, positions, cell=[[x, 0, 0], [xy, y, 0], [xz, yz, z]], pbc=periodic)


def compare(program: Any, atoms: Atoms, model: Potential, scale: float = 1.0, nktv2p: float = 1602176.5) -> None:
    """Energy, forces and pressure, without what is due to motion, with those that ASE gets."""
    ours = with_calculator(as_now(program, atoms), model)
    assert_near(program.get_thermo("pe"), scale * ours.get_potential_energy())
    order = np.argsort(program.numpy.extract_atom("id")[: len(atoms)])
    assert_near(program.numpy.extract_atom("f")[: len(atoms)][order], scale * ours.get_forces())
    assert program.extract_global("nktv2p") == pytest.approx(nktv2p)
    if "stress" in model.gives:
        program.command("compute virial_only all pressure NULL virial")
        program.command("run 0 post no")
        pressure = program.numpy.extract_compute("virial_only", lammps.LMP_STYLE_GLOBAL, lammps.LMP_TYPE_VECTOR)
        xx, yy, zz, yz, xz, xy = -ours.get_stress() * scale * nktv2p
        assert_near(pressure, [xx, yy, zz, xy, xz, yz])
        program.command("uncompute virial_only")


@pytest.mark.parametrize("kind", KINDS)
def test_a_crystal(program: Any, kind: str) -> None:
    model, atoms = build(kind), set_up(program, crystal())
    connect(program, model, ELEMENTS)
    program.command("run 0 post no")
    compare(program, atoms, model)


@pytest.mark.parametrize("kind", mostly_slow(["own", "v2"], "own"))
def test_a_molecule_from_a_file(program: Any, kind: str, tmp_path: Path) -> None:
    """In kcal/mol, between walls that shrink with it."""
    model, atoms = build(kind), set_up(program, molecule(), "real", "s s s")
    model.save(tmp_path / "potential.pt")
    connect(program, tmp_path / "potential.pt", ["H", "C", "O"])
    program.command("run 0 post no")
    compare(program, atoms, model, KCAL, 68568.415)


@pytest.mark.parametrize("make", [crystal, molecule], ids=["crystal", "molecule"])
def test_energy_is_conserved(program: Any, make: Any) -> None:
    model, start = build("own"), make()
    atoms = set_up(program, start, boundary="p p p" if start.cell.rank else "f f f")
    connect(program, model, ELEMENTS)
    program.commands_string("velocity all create 300 12345\ntimestep 0.0001\nfix move all nve\nrun 0 post no")
    total, kinetic = [], []
    for _ in range(30):
        program.command("run 5 pre no post no")
        total.append(program.get_thermo("etotal"))
        kinetic.append(program.get_thermo("ke"))
    assert_conserved(total, kinetic)
    compare(program, atoms, model)


def test_a_box_that_changes(program: Any) -> None:
    model, atoms = build("gradient"), set_up(program, crystal())
    connect(program, model, ELEMENTS)
    program.commands_string(
        "velocity all create 300 1\ntimestep 0.0005\nfix move all npt temp 300 300 0.05 tri 1e4 1e4 0.1\nrun 30 post no"
    )
    changed = as_now(program, atoms)
    assert np.abs(changed.cell.array - atoms.cell.array).max() > 1e-3
    compare(program, atoms, model)


def test_charges(program: Any) -> None:
    model = potentials.potential(inputs={"charge": Input(least=-2, most=2)})
    atoms = set_up(program, molecule())
    connect(program, model, ELEMENTS, inputs={"charge": -1})
    program.command("run 0 post no")
    charged = with_calculator(as_now(program, atoms), model)
    charged.info["charge"] = -1
    assert_near(program.get_thermo("pe"), charged.get_potential_energy())
    charged.info["charge"] = 0
    assert abs(program.get_thermo("pe") - charged.get_potential_energy()) > 1e-3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_leaves_no_forces_behind(program: Any) -> None:
    """LAMMPS takes no errors from a callback: it gets NaN, and the run ends early."""
    set_up(program, crystal())
    connect(program, build("own"), ELEMENTS)
    program.commands_string("timestep 0.001\nfix move all nve\nrun 0 post no")
    assert np.isfinite(program.get_thermo("pe"))
    program.commands_string("group both id 1 2\nset group both x 0.5 y 0.5 z 0.5")
    program.command("run 50 post no")
    assert np.isnan(program.get_thermo("pe"))
    assert np.isnan(program.numpy.extract_atom("f")[:24]).all()
    assert program.extract_global("ntimestep") < 50


def test_what_cannot_be_connected(program: Any) -> None:
    set_up(program, crystal())
    refused: dict[str, Any] = {"for each of the 3 types": (1, 6), r"\[79\]": (1, 6, 79), "atomic number": (1, 6, 8.5)}
    for words, elements in refused.items():
        with pytest.raises(ValueError, match=words):
            connect(program, build("own"), elements)
    with pytest.raises(ValueError, match="charge"):
        connect(program, build("own"), ELEMENTS, inputs={"charge": 1})
    assert not program.has_id("fix", FIX)
    program.commands_string("clear\nunits lj\nregion box block 0 1 0 1 0 1\ncreate_box 3 box")
    with pytest.raises(ValueError, match="metal or real"):
        connect(program, build("own"), ELEMENTS)
