"""Every Python block of docs/programs.md runs as it stands, with the program that its heading names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from equiformer_pytorch import EquiformerPotential
from tests.clients.common import needs

from ase.build import bulk, molecule  # isort: skip
from ase.calculators.singlepoint import SinglePointCalculator  # isort: skip
from ase.io import write  # isort: skip

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "programs.md"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
PROGRAMS: dict[str, tuple | None] = {
    "ASE": None,
    "LAMMPS": ("lammps", "lammps"),
    "OpenMM": ("openmmml", "openmm"),
    "TorchSim": ("torch_sim", "torchsim", (3, 11)),
    "metatomic": ("metatomic_ase", "metatomic"),
    "PyTorch Lightning": ("lightning", "lightning"),
    "PyTorch Geometric": ("torch_geometric", "pyg"),
    "No package at all": None,
}


def blocks() -> dict[str, str]:
    """By heading; all but those marked as no test, which another test runs."""
    found = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading = section.splitlines()[0]
        for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            assert heading not in found
            found[heading] = code
    return found


def write_files(folder: Path) -> None:
    """What the blocks read."""
    EquiformerPotential(species=["H", "O", "Al"], cutoff=4.0, dim=8, num_degrees=2, depth=1).double().save(
        folder / "potential.pt"
    )
    frames = []
    for seed in range(8):
        atoms = [bulk("Al", cubic=True), molecule("H2O")][seed % 2]
        atoms.rattle(0.1, seed=seed)
        forces = np.random.default_rng(seed).normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
        frames.append(atoms)
    write(folder / "train.xyz", frames)


def test_every_heading_has_its_block() -> None:
    assert blocks().keys() == PROGRAMS.keys()


@pytest.mark.parametrize("heading", PROGRAMS)
def test_block_runs(heading: str, tmp_path: Path) -> None:
    program = PROGRAMS[heading]
    if program is not None:
        needs(*program)
    write_files(tmp_path)
    (tmp_path / "block.py").write_text(blocks()[heading], encoding="utf-8")
    libraries = {"LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")}  # as the page says
    done = subprocess.run(
        [sys.executable, "block.py"], cwd=tmp_path, env=libraries | ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout
