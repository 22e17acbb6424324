# %% [markdown]
# # A property of molecules: numbers, vectors, tensors
#
# A property is read out of features of the degree by which it turns: a number from degree 0, a dipole from degree 1,
# the traceless part of a polarizability from degree 2. `EquiformerPotential` has them as targets, by name. The
# molecules here are the few of QM9 that the repository ships for tests; `python -m examples.qm9` learns from all.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from ase import Atoms

from docs.structures import Turnable
from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import Target
from equiformer_pytorch.testing import assert_equivariant
from examples.qm9 import data
from examples.qm9.model import MoleculeProperty
from examples.qm9.run import collate, items_of, predictions, true_values

torch.manual_seed(0)
root = Path(data.__file__).resolve().parents[2]
molecules = data.read(root / "data" / "qm9")
split = data.split(len(molecules), train=200, seed=0)
print(len(molecules), "molecules,", len(split.train), "to train on")

# %% tags=["remove-input"]
some = molecules.atoms(split.test[0])
Turnable(
    Atoms(molecules.numbers[some].numpy(), molecules.pos[some].numpy()),
    f"QM9, molecule {int(molecules.index[split.test[0]])}",
)

# %% [markdown]
# ## Targets of a potential
#
# A target has a degree, and belongs to each atom or to the structure; the latter is a sum over atoms.

# %%
targets = {
    "charges": Target(0),
    "dipole": Target(1, "structure"),
    "anisotropy": Target(2, "structure"),
}
potential = EquiformerPotential(
    species=[1, 6, 7, 8, 9], cutoff=3.2, dim=8, depth=1, targets=targets
).double()
numbers, pos = molecules.numbers[some], molecules.pos[some].double()
out = potential(numbers, pos, forces=False)
print({name: tuple(x.shape) for name, x in out.items()})
assert_equivariant(
    potential,
    {"atomic_numbers": numbers, "pos": pos},
    under=("rotation", "reflection", "permutation"),
)

# %% [markdown]
# Turned and mirrored molecules have turned and mirrored dipoles; that is what the last line checks. Labels of your
# own come from files: `load_structures("all.db", cutoff=4.0, targets=targets)`, or `equiformer train --targets
# dipole=1 charges=0:atom`.
#
# ## Three properties of QM9
#
# `MoleculeProperty`, from the example, reads out sums (energies), lengths of vectors (QM9 has $|\mu|$ alone) and
# symmetric tensors. The file does not tell which way the axes of the polarizability tensor point, so what counts is the
# error to the nearest of four candidates: [why](../accuracy.md).

# %%
CUTOFF, STEPS = 3.2, 100
options = dict(
    cutoff=CUTOFF,
    dim=16,
    num_degrees=3,
    depth=1,
    heads=2,
    radial_basis="even",
    l2_dist_attention=False,
)


def learned(name: str, kind: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Found and true values of other molecules; and the mean error before training."""
    train, test = (
        items_of(molecules, split.train, name),
        items_of(molecules, [*split.valid, *split.test], name),
    )
    torch.manual_seed(0)
    model = MoleculeProperty(kind, options)
    whole = collate(train, CUTOFF)
    left = model.fit(
        whole, whole["value"] if whole["value"].ndim == 1 else whole["value"][:, 0]
    )
    unit = left.square().mean().sqrt()
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=5e-3
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = collate(
            [train[i] for i in torch.randint(len(train), (8,), generator=generator)],
            CUTOFF,
        )
        found = model(batch)
        loss = ((found - true_values(found, batch)) / unit).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return *predictions(model.eval(), test, CUTOFF), left.abs().mean().item()


figure, panels = plt.subplots(1, 3, figsize=(9, 3.2))
for axes, (name, kind, unit) in zip(
    panels,
    (("u0", "sum", "eV"), ("mu", "length", "D"), ("tensor", "tensor", "a₀³")),
    strict=True,
):
    found, true, before = learned(name, kind)
    found, true = found.flatten().numpy(), true.flatten().numpy()
    axes.scatter(true, found, s=8, alpha=0.6)
    axes.axline((true.mean(), true.mean()), slope=1, color="grey", linewidth=0.8)
    axes.set(
        title=f"{name} / {unit}", xlabel="QM9", ylabel="found" if name == "u0" else None
    )
    error = abs(found - true).mean()
    print(
        f"{name:7s} mean absolute error {error:.3f} {unit}, {before:.3f} before training"
    )
plt.show()

# %% [markdown]
# Two hundred molecules and a hundred steps are enough to look at, not to use: what longer training gives, beside PaiNN,
# is in [Accuracy on QM9](../accuracy.md).
