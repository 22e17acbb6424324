# %% [markdown]
# # First model, and what equivariance means
#
# An `Equiformer` takes features and coordinates of points and gives back, for every point, numbers that do not change
# when the structure is turned (degree 0) and vectors that turn with it (degree 1). That takes neither data augmentation
# nor training: it holds for random weights.

# %%
import matplotlib.pyplot as plt
import torch
from ase.build import molecule

from docs.structures import Turnable
from equiformer_pytorch import Equiformer
from equiformer_pytorch.irr_repr import rot
from equiformer_pytorch.testing import equivariance_errors

torch.manual_seed(0)
atoms = molecule("CH3CH2OH")

# %% tags=["remove-input"]
Turnable(atoms, "Ethanol")

# %% [markdown]
# Tokens say what a point is: here 0 for hydrogen, 1 for carbon, 2 for oxygen. The first axis is the batch.

# %%
tokens = torch.tensor([[{1: 0, 6: 1, 8: 2}[int(number)] for number in atoms.numbers]])
coors = torch.tensor(atoms.positions, dtype=torch.float32)[None]

model = Equiformer(
    num_tokens=3, dim=16, num_degrees=3, depth=2, reduce_dim_out=True
).eval()
with torch.no_grad():
    out = model(tokens, coors)

print("type0", tuple(out.type0.shape), "one number for each atom")
print("type1", tuple(out.type1.shape), "one vector for each atom")

# %% [markdown]
# ## Turn it
#
# $R$ is a rotation. Rows are vectors, so the turned structure is `coors @ R.T`. The numbers stay, and the vectors of
# the turned structure are the turned vectors:
#
# $$f_0(x R^T) = f_0(x), \\ f_1(x R^T) = f_1(x)\,R^T .$$

# %%
R = rot(0.4, 1.0, -0.7)
with torch.no_grad():
    turned = model(tokens, coors @ R.T)

print(f"type0 changes by {(turned.type0 - out.type0).abs().max():.0e}")
print(f"type1 is off by  {(turned.type1 - out.type1 @ R.T).abs().max():.0e}")


# %% tags=["hide-input"]
def panel(axes, positions, vectors, title):
    positions, vectors = (
        positions[0] - positions[0].mean(0),
        vectors[0] / vectors[0].norm(dim=-1).max(),
    )
    colours = [
        {1: "#aab2bd", 6: "#5b6470", 8: "#d9534f"}[int(number)]
        for number in atoms.numbers
    ]
    axes.scatter(*positions[:, :2].T, c=colours, s=140, zorder=2)
    axes.quiver(
        *positions[:, :2].T,
        *vectors[:, :2].T,
        color="#3b82d6",
        angles="xy",
        scale=1.2,
        zorder=3,
        width=0.008,
    )
    axes.set(title=title, aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    axes.set_axis_off()


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3.2))
panel(left, coors, out.type1, "f(x)")
panel(middle, coors @ R.T, turned.type1, "f(x Rᵀ): turn, then ask")
panel(right, coors @ R.T, out.type1 @ R.T, "f(x) Rᵀ: ask, then turn")
plt.show()

# %% [markdown]
# The middle and the right picture are the same: that is equivariance. The arrows, seen along z, are those of an
# untrained network; training gives them a meaning.
#
# ## Measure it
#
# {mod}`equiformer_pytorch.testing` turns, shifts and reorders a structure, and gives the largest relative deviation.
# In a test, `assert_equivariant` fails where it is more than rounding.

# %%
for transformation, errors in equivariance_errors(
    model, {"inputs": tokens, "coors": coors}
).items():
    print(
        f"{transformation:12s}",
        ", ".join(f"{name}: {error:.1e}" for name, error in errors.items()),
    )

# %% [markdown]
# These are rounding errors of float32. A network that is not built this way has to learn each orientation from
# examples:

# %%
plain = torch.nn.Sequential(
    torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 3)
)
with torch.no_grad():
    deviation = (plain(coors @ R.T) - plain(coors) @ R.T).abs().max()
    share = deviation / plain(coors).abs().max()
print(f"a plain network is off by {share:.0%} of its largest output")

# %% [markdown]
# **Next:** [train one](denoise.py), or read [why it holds](../theory/features.py). All that a call takes: [Features
# on points](../guide/points.md).
