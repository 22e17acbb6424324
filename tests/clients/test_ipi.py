"""i-PI itself, over a socket, with ASE's client."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.socketio import SocketClient

from equiformer_pytorch.atoms import EquiformerCalculator
from tests.atoms.kinds import build
from tests.clients.common import Atoms, assert_conserved, assert_near, crystal, molecule, needs, with_calculator

ipi = needs("ipi", "ipi")

pytestmark = pytest.mark.slow

INPUT = """<simulation verbosity='quiet'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ conserved{{electronvolt}}, potential{{electronvolt}},
      kinetic_md{{electronvolt}}, virial_md{{ev/ang3}} ] </properties>
    <trajectory stride='1' filename='forces' format='xyz'> forces{{ev/ang}} </trajectory>
  </output>
  <total_steps>40</total_steps>
  <prng><seed>1</seed></prng>
  <ffsocket mode='unix' name='driver' pbc='false'> <address>{address}</address> <latency>1e-4</latency> </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='xyz'> start.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='driver'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.1 </timestep> </dynamics>
    </motion>
  </system>
</simulation>
"""


def write_start(atoms: Atoms, file: Path) -> None:
    """As i-PI reads it."""
    cell = " ".join(f"{number:.15g}" for number in atoms.cell.cellpar())
    rows = [f"{atom.symbol} {atom.x:.15g} {atom.y:.15g} {atom.z:.15g}" for atom in atoms]
    head = f"# CELL(abcABC): {cell} positions{{angstrom}} cell{{angstrom}}"
    file.write_text("\n".join([str(len(atoms)), head, *rows, ""]))


class Recorder(EquiformerCalculator):
    """Remembers where i-PI had the atoms: what it writes has six digits."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seen: list[Atoms] = []

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, system_changes)
        self.seen.append(atoms.copy())


def wait_for(server: Any, address: str) -> None:
    """Until it listens."""
    for _ in range(600):
        assert server.poll() is None, "i-PI ended"
        if Path(f"/tmp/ipi_{address}").exists():
            return
        time.sleep(0.05)
    raise TimeoutError("i-PI does not listen")


@pytest.mark.parametrize("make", [crystal, molecule], ids=["crystal", "molecule"])
def test_dynamics_over_a_socket(make: Any, tmp_path: Path) -> None:
    model, atoms = build("own"), make()
    periodic = bool(atoms.pbc.any())
    if not periodic:
        atoms.center(vacuum=10)
    write_start(atoms, tmp_path / "start.xyz")
    address = f"equiformer-{tmp_path.name}-{time.time_ns()}"
    (tmp_path / "input.xml").write_text(INPUT.format(address=address))
    program = Path(sys.executable).with_name("i-pi")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([program, "input.xml"], cwd=tmp_path, stdout=log, stderr=log)
    moved = atoms.copy()
    moved.calc = Recorder(model)
    try:
        wait_for(server, address)
        client = SocketClient(unixsocket=address)
        client.run(moved, use_stress=periodic)
        client.close()
        assert server.wait(60) == 0
    finally:
        server.kill()
    conserved, potential, kinetic, *virial = np.loadtxt(tmp_path / "run.out").T
    # The client asks for the energy, then for the forces, which come along with it from the second step on.
    assert len(moved.calc.seen) == 1 + len(conserved) == 42
    seen = moved.calc.seen[1:]
    assert_conserved(conserved, kinetic)
    lines = (tmp_path / "run.forces_0.xyz").read_text().splitlines()
    for step in (0, 40):
        ours = with_calculator(seen[step], model)
        assert_near(potential[step], ours.get_potential_energy(), 1e-7)
        start = step * (len(atoms) + 2) + 2
        forces = [line.split()[1:] for line in lines[start : start + len(atoms)]]
        assert_near(np.array(forces, dtype=float), ours.get_forces(), 1e-5)
        if periodic:
            xx, yy, zz, yz, xz, xy = -ours.get_stress()
            assert_near([column[step] for column in virial], [xx, yy, zz, xy, xz, yz], 1e-7)
    assert np.abs(seen[40].positions - seen[0].positions).max() > 1e-3
