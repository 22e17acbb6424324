# %% [markdown]
# # Fine-tune a published checkpoint, relax a crystal
#
# Files of the official trainers of EquiformerV2 (OC20's `eq2_31M_ec4_allmd.pt`, say) and V3 are read as they are;
# `load_potential` tells from the file which network it holds. They are large, and their authors hand them out: download
# the one that you want.
#
# This page runs wherever it is built, so it has a **stand-in**: a file laid out as the official trainer's, but of a
# small network that has learned nothing. With a real file leave out the cell that writes it and set `published` to
# its path; every other line stays as it is, but for the numbers that are marked.

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
published = folder / "published.pt"  # with a real file: its path

# %% [markdown]
# The stand-in. As in files of the official trainer, weights have `module.` before their names, the configuration is
# nested and names the network, and normalisers and reference energies of the elements lie beside.

# %%
small = dict(
    num_layers=1,
    num_channels=16,
    attn_hidden_channels=8,
    num_heads=2,
    attn_value_channels=8,
    edge_channels=16,
)
small |= dict(
    lmax=2,
    attn_grid_resolution_list=[8, 8],
    ffn_grid_resolution_list=[8, 8],
    num_radial_basis=16,
)
small |= dict(max_radius=4.5, direct_prediction=False, regress_stress=True)
torch.save(
    {
        "state_dict": {
            f"module.{name}": weight
            for name, weight in EquiformerV3(**small).state_dict().items()
        },
        "config": {"model": {"name": "equiformer_v3", **small}},
        "normalizers": {
            "energy": {"mean": 0.0, "rmsd": 1.0},
            "forces": {"mean": 0.0, "rmsd": 1.0},
        },
        "elementrefs": {"energy": {"element_references": torch.zeros(128)}},
    },
    published,
)

# %% [markdown]
# ## Data
#
# Copper, strained and shaken, with energies, forces and stress of ASE's EMT; ten structures are held out.

# %%
rng = np.random.default_rng(0)
frames = []
for _ in range(50):
    atoms = bulk("Cu", "fcc", a=rng.uniform(3.4, 3.8), cubic=True)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))),
        scale_atoms=True,
    )
    atoms.rattle(0.06, rng=rng)
    atoms.calc = EMT()
    atoms.get_stress()
    frames.append(atoms)
write(folder / "copper.xyz", frames[10:])
write(folder / "held-out.xyz", frames[:10])

# %% [markdown]
# ## Fine-tune
#
# On the command line this is one line, `equiformer train --train copper.xyz --checkpoint published.pt --lr 2e-4`,
# which also takes a GPU where there is one, averages weights and can be resumed. In Python it is a loop. The zero of
# your energies may be another: `refit_references` shifts the reference energies of the elements to fit, and leaves
# all else as it was learned.

# %%
# On a GPU: model.to("cuda"), and so each tensor of a batch below.
model = load_potential(published)
print(type(model).__name__, "with a cutoff of", model.cutoff, "Å")
graphs = {
    "max_neighbors": model.max_neighbors,
    "strict_neighbors": model.strict_neighbors,
}
structures = load_structures(folder / "copper.xyz", model.cutoff, **graphs)
refit_references(model, structures.items)
held_out = load_structures(folder / "held-out.xyz", model.cutoff, **graphs)


def errors(model, batch):
    """Mean absolute errors: energy per atom (eV), forces (eV/Å), stress (eV/Å³)."""
    out = predict(model, batch, stress=True)
    atoms = batch["batch"].bincount()
    energy = ((out["energy"] - batch["energy"]) / atoms).abs().mean()
    return (
        energy,
        (out["forces"] - batch["forces"]).abs().mean(),
        (out["stress"] - batch["stress"]).abs().mean(),
    )


def on_held_out(when):
    energy, forces, stress = errors(model.eval(), collate_structures(held_out.items))
    figures = f"{1000 * energy:4.0f} meV/atom, {1000 * forces:4.0f} meV/Å"
    print(f"{when:7s} {figures}, {1000 * stress:5.1f} meV/Å³")


on_held_out("before")

# %%
STEPS, LR = 100, 5e-3  # real file: 2e-4, and steps as long as errors fall
loader = DataLoader(
    structures, batch_size=2, shuffle=True, collate_fn=collate_structures
)
optimizer = torch.optim.AdamW(model.train().parameters(), lr=LR)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS)
history = []
while len(history) < STEPS:
    for batch in loader:
        energy, forces, stress = errors(model, batch)
        optimizer.zero_grad()
        (energy + 10 * forces + 50 * stress).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        history.append([energy.item(), forces.item(), stress.item()])
on_held_out("after")
model.save(folder / "fine-tuned.pt")

figure, axes = plt.subplots()
for values, label in zip(
    np.array(history).T,
    ("energy / eV per atom", "forces / eV Å⁻¹", "stress / eV Å⁻³"),
    strict=True,
):
    axes.plot(values, label=label)
axes.set(xlabel="step", ylabel="mean absolute error", yscale="log")
axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
plt.show()

# %% [markdown]
# Since the stand-in has learned nothing, these are errors of a training from scratch: the steps are those of
# fine-tuning, the start is not. A published network begins lower, and is given a smaller learning rate, so as to keep
# what it has learned. A network whose forces come from a head of their own (direct prediction) is trained by the same
# lines, without the stress if it gives none (`gives_stress(model)` says so). For dynamics go on from it with the
# gradient instead: [how](../guide/published.md).
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
for name, cell in (("potential", atoms.cell), ("EMT", reference.cell)):
    print(f"{name:10s} a, b, c = {cell.lengths().round(3)} Å")

# %% tags=["remove-input"]
Turnable(atoms.repeat(2), "Relaxed copper, eight cells")

# %% [markdown]
# A published network needs no fine-tuning to do this: `EquiformerCalculator(published)` is enough.
#
# ## eSEN and UMA
#
# Their files hold one network for several levels of theory, so say which is meant: `ESCNMD.from_checkpoint(path,
# task="omat")` in place of `load_potential(path)`, and as the calculator's argument. All other lines are the same:
# [Published networks](../guide/published.md).
