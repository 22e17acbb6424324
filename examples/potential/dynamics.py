"""Constant-energy dynamics of a molecule with a trained potential: does the total energy drift?

    python -m examples.potential.dynamics runs/potential/potential.pt --molecule CH3CH2OH

The molecule is relaxed with the potential, given velocities of twice the temperature (half of it becomes potential
energy), and followed with velocity Verlet in float64. Written beside the potential: dynamics.png, dynamics.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from matplotlib.figure import Figure
from tqdm import tqdm

from equiformer_pytorch.atoms import EquiformerCalculator

EVERY = 10  # steps between two values that are kept


def follow(
    atoms: Atoms, picoseconds: float, timestep: float, temperature: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (ps), total energies and kinetic energies (eV per atom) of `atoms`, which have a calculator."""
    if not BFGS(atoms, logfile=None).run(fmax=0.01, steps=500):
        raise ValueError("the molecule does not come to rest with this potential")
    spread = np.sqrt(2 * units.kB * temperature * atoms.get_masses())
    momenta = spread[:, None] * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(0))
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    total, kinetic = [], []
    for _ in tqdm(range(round(1000 * picoseconds / timestep / EVERY)), unit="step", unit_scale=EVERY, mininterval=1):
        dynamics.run(EVERY)
        total.append(atoms.get_total_energy() / len(atoms))
        kinetic.append(atoms.get_kinetic_energy() / len(atoms))
    times = timestep * EVERY * np.arange(1, len(total) + 1) / 1000
    return times, np.array(total), np.array(kinetic)


def plot(times: np.ndarray, total: np.ndarray, slope: float, title: str, path: Path) -> None:
    """Deviation of the total energy from its mean, with its trend."""
    figure = Figure(figsize=(7.5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(times, 1e3 * (total - total.mean()), color="tab:blue", linewidth=0.4)
    axes.plot(
        times, 1e3 * slope * (times - times.mean()), color="tab:orange", label=f"{1e4 * slope:+.4f} meV/atom per 10 ps"
    )
    axes.set(xlabel="time / ps", ylabel="total energy − mean / meV atom⁻¹", title=title)
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.potential.dynamics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("potential", type=Path, help="what train_potential left, potential.pt")
    parser.add_argument("--molecule", default="CH3CH2OH", help="a name of ASE's g2 collection (default: CH3CH2OH)")
    parser.add_argument("--picoseconds", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs (default: 0.5)")
    parser.add_argument("--temperature", type=float, default=300.0, help="in K (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the velocities (default: 0)")
    args = parser.parse_args(arguments)
    try:
        atoms = molecule(args.molecule)
        atoms.calc = EquiformerCalculator(args.potential, dtype=torch.float64)
        times, total, kinetic = follow(atoms, args.picoseconds, args.timestep, args.temperature, args.seed)
    except (KeyError, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    slope = float(np.polyfit(times, total, 1)[0])  # eV per atom and ps
    found = {
        "molecule": args.molecule,
        "picoseconds": args.picoseconds,
        "timestep_fs": args.timestep,
        "drift_mev_per_atom_per_10_ps": 1e4 * slope,
        "spread_mev_per_atom": 1e3 * float(total.std()),
        "mean_temperature_k": float(kinetic.mean() / (1.5 * units.kB)),
    }
    (args.potential.parent / "dynamics.json").write_text(json.dumps(found, indent=1) + "\n")
    title = f"{args.molecule}, {args.timestep:g} fs, {found['mean_temperature_k']:.0f} K"
    plot(times, total, slope, title, args.potential.parent / "dynamics.png")
    print(
        f"{title}: drift {found['drift_mev_per_atom_per_10_ps']:+.4f} meV/atom per 10 ps, "
        f"spread {found['spread_mev_per_atom']:.3f} meV/atom over {args.picoseconds:g} ps"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
