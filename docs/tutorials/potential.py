# %% [markdown]
# # Train a potential on your own extxyz
#
# From a file of structures with energies and forces to dynamics. So that the page runs anywhere, the file is made on
# the spot: clusters of copper and gold, labelled by ASE's EMT. Yours may come from any program whose files ASE reads.

# %%
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import torch
from ase import units
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from docs.structures import Turnable
from equiformer_pytorch.atoms import EquiformerCalculator

folder = Path(mkdtemp())
rng = np.random.default_rng(0)
frames = []
for run in range(6):  # six compositions, each heated to 600 K
    atoms = Icosahedron("Cu", 2)
    atoms.symbols[rng.permutation(13)[: 1 + 2 * run]] = "Au"
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=0.1, steps=50)
    dynamics = Langevin(
        atoms,
        4 * units.fs,
        temperature_K=600,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=rng,
    )
    for _ in range(30):
        dynamics.run(10)
        frames.append(atoms.copy())
        frames[-1].calc = EMT()
        frames[-1].get_forces()
held_out, rest = frames[::5], [frames[i] for i in range(len(frames)) if i % 5]
write(folder / "clusters.xyz", rest)
write(folder / "held-out.xyz", held_out)
print(len(rest), "structures to train and validate on,", len(held_out), "held out")

# %% tags=["remove-input"]
Turnable(frames[60], "One of the clusters: five atoms of gold, eight of copper")

# %% [markdown]
# ## Train
#
# One command. It takes whatever labels there are, fits reference energies, keeps a share to validate on, and goes on
# exactly where it was killed (`equiformer train --resume`). The numbers of the last two lines are small here, to be done in
# seconds; leave them out for a model that is worth something.

# %%
command = f"""equiformer train --train {folder}/clusters.xyz --valid 0.1
    --test {folder}/held-out.xyz --runs {folder}/runs --name clusters
    --cutoff 4.5 --dim 16 --num-degrees 3 --depth 1 --heads 2
    --steps 300 --warmup 10 --lr 5e-3 --batch-size 2 --validate-every 100"""
arguments = command.split()[1:]
subprocess.run(
    [sys.executable, "-m", "equiformer_pytorch.cli", *arguments],
    capture_output=True,
    check=True,
)
run = folder / "runs" / "clusters"
print((run / "evaluation.txt").read_text())

# %% [markdown]
# ## Look at the errors
#
# `evaluation.txt` has them by set, element and group. To see where they lie, ask the calculator, which answers for any
# structure. (The held-out structures come from the same runs as the others, so these are errors of interpolation.
# Hold whole runs out to learn how far a potential carries.)

# %%
calculator = EquiformerCalculator(run / "potential.pt", dtype=torch.float64)
true = np.concatenate([atoms.get_forces() for atoms in held_out])
found = np.concatenate(
    [calculator.get_property("forces", atoms.copy()) for atoms in held_out]
)
gold = np.concatenate([atoms.symbols == "Au" for atoms in held_out])

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
for name, chosen in (("Cu", ~gold), ("Au", gold)):
    left.scatter(true[chosen], found[chosen], s=3, alpha=0.5, label=name)
    right.hist(
        (found - true)[chosen].ravel(),
        bins=50,
        histtype="step",
        label=name,
        density=True,
    )
left.axline((0, 0), slope=1, color="grey", linewidth=0.8)
left.set(xlabel="EMT / eV Å⁻¹", ylabel="potential / eV Å⁻¹", title="force components")
right.set(xlabel="error / eV Å⁻¹", yticks=[], title="errors by element")
right.legend()
plt.show()
error = np.sqrt(np.mean((found - true) ** 2))
print(f"RMSE {1000 * error:.0f} meV/Å; forces are {1000 * true.std():.0f} meV/Å large")

# %% [markdown]
# ## Run dynamics
#
# Forces are the exact derivative of the energy, and nothing jumps at the cutoff; so the total energy is conserved,
# whether or not the potential is good. The calculator works in float64, since float32's rounding is noise on the
# forces.

# %%
atoms = held_out[0].copy()
atoms.calc = calculator
BFGS(atoms, logfile=None).run(fmax=0.05, steps=50)
atoms.set_momenta(
    rng.normal(size=(13, 3)) * np.sqrt(units.kB * 300 * atoms.get_masses())[:, None]
)
dynamics = VelocityVerlet(atoms, 4 * units.fs)
total, kinetic = [], []
for _ in range(60):
    dynamics.run(5)
    total.append(1000 * atoms.get_total_energy() / len(atoms))
    kinetic.append(1000 * atoms.get_kinetic_energy() / len(atoms))

figure, axes = plt.subplots()
times = 0.02 * np.arange(1, 61)
axes.plot(times, np.array(total) - total[0], label="total energy")
axes.plot(times, np.array(kinetic) - kinetic[0], alpha=0.5, label="kinetic energy")
axes.set(xlabel="time / ps", ylabel="change / meV per atom")
axes.legend()
plt.show()
print(f"total energy spreads by {np.std(total):.3f} meV per atom,")
print(f"kinetic energy by {np.std(kinetic):.1f} meV per atom")

# %% tags=["remove-input"]
Turnable(atoms, "The cluster after 1.2 ps")

# %% [markdown]
# LAMMPS, OpenMM, i-PI and others run with the same file: [Programs](../programs.md). How well a potential learns with
# more than seconds of training, beside MACE: [Potentials](../potentials.md).
