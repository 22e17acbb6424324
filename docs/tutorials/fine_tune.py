# %% [markdown]
# # Fine-tune a published checkpoint, relax a crystal
#
# Published files of EquiformerV2 and V3 are read as they are; `load_potential` tells from the file which network it
# holds. They are gigabytes, and of their authors: so this page, which runs wherever it is built, makes a small file
# of the same kind to begin with, which has learned nothing. Put the path of yours in its place.

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import FIRE
from torch.utils.data import DataLoader

from docs.structures import Turnable
from equiformer_pytorch import EquiformerV3
from equiformer_pytorch.atoms import (
    EquiformerCalculator,
    collate_structures,
    load_potential,
    load_structures,
    predict,
    refit_references,
)

torch.manual_seed(0)
folder = Path(mkdtemp())
small = dict(
    num_layers=1, num_channels=16, attn_hidden_channels=8, num_heads=2, attn_value_channels=8, edge_channels=16
)
small |= dict(lmax=2, attn_grid_resolution_list=[8, 8], ffn_grid_resolution_list=[8, 8], num_radial_basis=16)
EquiformerV3(**small, max_radius=4.5, direct_prediction=False, regress_stress=True).save(folder / "published.pt")

# %% [markdown]
# ## Data
#
# Copper, strained and shaken, with energies, forces and stress of ASE's EMT.

# %%
rng = np.random.default_rng(0)
frames = []
for _ in range(40):
    atoms = bulk("Cu", "fcc", a=rng.uniform(3.3, 4.0), cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.06, rng=rng)
    atoms.calc = EMT()
    atoms.get_stress()
    frames.append(atoms)
write(folder / "copper.xyz", frames)

# %% [markdown]
# ## Fine-tune
#
# On the command line this is one line, `equiformer train --train copper.xyz --checkpoint published.pt --lr 2e-4`; in
# Python, a loop. The zero of your energies may be another: `refit_references` shifts the reference energies of the
# elements to fit, and leaves all else as it was learned.

# %%
model = load_potential(folder / "published.pt")
structures = load_structures(folder / "copper.xyz", model.cutoff, max_neighbors=model.max_neighbors)
refit_references(model, structures.items)

STEPS = 60
loader = DataLoader(structures, batch_size=2, shuffle=True, collate_fn=collate_structures)
optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, STEPS)
errors = []
while len(errors) < STEPS:
    for batch in loader:
        out = predict(model, batch, stress=True)  # eV, eV/Å, eV/Å³
        energy = (out["energy"] - batch["energy"]).abs().mean() / 4
        forces = (out["forces"] - batch["forces"]).abs().mean()
        stress = (out["stress"] - batch["stress"]).abs().mean()
        optimizer.zero_grad()
        (energy + 2 * forces + 20 * stress).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        errors.append([energy.item(), forces.item(), stress.item()])
model.eval().save(folder / "fine-tuned.pt")

figure, axes = plt.subplots()
for values, label in zip(
    np.array(errors).T, ("energy / eV per atom", "forces / eV Å⁻¹", "stress / eV Å⁻³"), strict=True
):
    axes.plot(values, label=label)
axes.set(xlabel="step", ylabel="mean absolute error", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# With the file that this page made these are errors of a training from scratch: the steps are those of fine-tuning,
# the start is not. A published network begins lower, and is given a smaller `lr`, so as to keep what it has learned.
#
# ## Relax a crystal, its cell too
#
# Stress is the derivative of the energy by a strain, so any of ASE's filters works.

# %%
atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
atoms.rattle(0.05, seed=1)
atoms.calc = EquiformerCalculator(folder / "fine-tuned.pt", dtype=torch.float64)
FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=80)

reference = bulk("Cu", "fcc", a=3.8, cubic=True)
reference.calc = EMT()
FIRE(FrechetCellFilter(reference), logfile=None).run(fmax=0.02)
print(f"cell {np.round(atoms.cell.lengths(), 3)} Å, EMT {np.round(reference.cell.lengths(), 3)} Å")

# %% tags=["remove-input"]
Turnable(atoms.repeat(2), "Relaxed copper, eight cells")

# %% [markdown]
# With a published file: `EquiformerV3.from_checkpoint(path)`, or `ESCNMD.from_checkpoint(path, task="omat")` for eSEN
# and UMA, is the calculator's argument, and nothing else changes: [Published networks](../guide/published.md).
