"""Trains the potential of `aluminium.pt`, for tests that need one that was trained.

    python -m tests.data.build_aluminium

Aluminium of ASE's effective medium theory: crystals with and without a vacancy, strained and rattled, atoms on their
way into the vacancy, and clusters of four atoms. Ten minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import collate_structures, radius_graph

FILE = Path(__file__).with_name("aluminium.pt")
CUTOFF, STEPS, RATE, STRUCTURES, BATCH = 5.3, 6000, 4e-3, 400, 4


def crystal() -> Atoms:
    """Four atoms."""
    return bulk("Al", cubic=True, a=4.0)


def with_vacancy() -> Atoms:
    """The place at (0, 0, 0) is empty."""
    atoms = crystal() * (2, 2, 2)
    del atoms[0]
    return atoms


def cluster() -> Atoms:
    """A tetrahedron."""
    return Atoms("Al4", 0.95 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))


def samples(count: int) -> list[Atoms]:
    """With energies and forces of the theory."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        atoms = (crystal, cluster, crystal, with_vacancy)[number % 4]()
        if number % 8 == 7:  # a neighbour of the empty place is anywhere on its way into it
            near = int(np.argmin(np.linalg.norm(atoms.positions - [2, 2, 0], axis=1)))
            atoms.positions[near] *= rng.uniform(0, 1)
        if atoms.pbc.any():
            strain = np.eye(3) * rng.uniform(0.96, 1.05) + 0.02 * rng.normal(size=(3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(size=atoms.positions.shape) * rng.uniform(0.005, 0.15)
        atoms.calc = EMT()
        found.append(atoms)
    return found


def item(atoms: Atoms) -> dict[str, torch.Tensor]:
    """As `load_structures` makes them."""
    pos, cell, pbc = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array), torch.tensor(atoms.pbc)
    edge_index, cell_offsets = radius_graph(pos, CUTOFF, cell=cell[None], pbc=pbc[None])
    labels = {"energy": torch.tensor(atoms.get_potential_energy()), "forces": torch.tensor(atoms.get_forces())}
    graph = {"edge_index": edge_index, "cell_offsets": cell_offsets}
    return {"atomic_numbers": torch.tensor(atoms.numbers), "pos": pos, "cell": cell, "pbc": pbc, **graph, **labels}


def main() -> None:
    """Trains, says how well, and writes the file."""
    torch.manual_seed(0)
    model = EquiformerPotential(species=["Al"], cutoff=CUTOFF, dim=(16, 8), num_degrees=2, depth=1, heads=2, dim_head=8)
    items = [item(atoms) for atoms in samples(STRUCTURES)]
    model.fit(items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    squares = torch.zeros(3)
    for step in range(1, STEPS + 1):
        batch = collate_structures([items[number] for number in torch.randint(STRUCTURES, (BATCH,)).tolist()])
        out = model.evaluate(batch)
        energies = ((out["energy"] - batch["energy"]) / torch.bincount(batch["batch"])).square().mean()
        forces = (out["forces"] - batch["forces"]).square().mean()
        optimizer.zero_grad()
        (100 * energies + forces).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        schedule.step()
        squares += torch.stack((energies, forces, batch["forces"].square().mean())).detach()
        if step % 300 == 0:
            print(step, *(squares / 300).sqrt().tolist(), flush=True)
            squares.zero_()
    model.save(FILE)


if __name__ == "__main__":
    main()
