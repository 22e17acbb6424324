# %% [markdown]
# # Generate backbones
#
# A network that takes noise off protein backbones can make new ones: start from noise alone, and take it off step by
# step. This is `python -m examples.generate_backbones sample`, by hand, with the small model that the repository
# ships. [How good its backbones are](../backbones.md) is measured on a page of its own.

# %%
import matplotlib.pyplot as plt
import torch
from ase import Atoms

from docs.structures import Turnable
from examples.backbones import saved
from examples.backbones.chains import load_chains
from examples.backbones.geometry import atoms_of, frames_of, torsions
from examples.backbones.measures import local
from examples.backbones.measures.secondary import secondary_structure
from examples.backbones.network import OPEN
from examples.backbones.process import add_noise
from examples.backbones.sampling import Plan, Task, sample, trajectory

network = saved.load(saved.SHIPPED)
print(sum(weight.numel() for weight in network.parameters()), "weights")


# %% tags=["hide-input"]
def as_atoms(coords):
    return Atoms("NCCO" * len(coords), coords.flatten(0, 1).numpy())


# %% [markdown]
# ## Residues as frames
#
# N, CA and C of a residue are a rigid triangle, so a residue is a position and a rotation. Noise of level σ moves and
# turns it: each coordinate by about σ Å, and the rotation by a Brownian motion that carries N and C about as far.

# %%
chain = load_chains().test[0].residues(0, 64)
frames = frames_of(chain.coords)
generator = torch.Generator().manual_seed(0)
one_chain, free = torch.zeros(64, dtype=torch.long), torch.tensor([True])
noised = add_noise(frames, torch.full((64,), 2.0), one_chain, free, generator)
Turnable(
    as_atoms(atoms_of(noised)),
    f"64 residues of {chain.name} with 2 Å of noise",
    chain=True,
)

# %% [markdown]
# `BackboneNetwork` is an `Equiformer` on these residues. Its input vectors are the axes of the frames, its edges tell
# where each residue is in the frame of the other, the noise level is a `condition`, and three output vectors of each
# residue tell where it belongs and how it is turned. Turned noise gives the same backbone, turned.

# %% [markdown]
# ## From noise to a backbone

# %%
plan = Plan(steps=40)
way = [
    atoms_of(estimate)
    for (estimate,) in trajectory(network, [Task(length=64, seed=3)], plan)
]
levels = plan.levels(60.0)

figure, all_axes = plt.subplots(1, 5, figsize=(11, 2.6))
for axes, step in zip(all_axes, (0, 14, 22, 28, 39), strict=True):
    ca = way[step][:, 1] - way[step][:, 1].mean(0)
    flat = ca @ torch.linalg.svd(way[-1][:, 1] - way[-1][:, 1].mean(0)).Vh.T
    axes.plot(flat[:, 0], flat[:, 1], linewidth=1.5)
    axes.set(title=f"noise {levels[step]:.1f} Å", xticks=[], yticks=[])
    axes.set_aspect("equal")
plt.show()

# %%
backbone = way[-1]
print("".join(secondary_structure(backbone)))
Turnable(as_atoms(backbone), "What came out: 64 residues", chain=True)

# %% [markdown]
# ## What to look at
#
# Bonds come out right, and clashes are rare, by construction: below 3 Å of noise every estimate is relaxed. Torsions
# are what the network learned; 90 % of the residues of natural chains lie within the outline.

# %%
print(f"CA–CA of 3.8 ± 0.1 Å: {local.ca_steps(backbone):.2f}")
print(f"clashes of CA per 100 residues: {local.ca_clashes(backbone):.1f}")
region = local.Ramachandran.of(
    [chain.coords for chain in load_chains().compact().train]
)
print(f"in the Ramachandran region: {region.inside(backbone):.2f}")
phi, psi = torch.rad2deg(torsions(backbone)[1:-1, :2]).T

figure, axes = plt.subplots(figsize=(3.6, 3.6))
bins = len(region.density)
centres = torch.linspace(-180, 180, bins + 1)[:-1] + 180 / bins
axes.contour(centres, centres, region.density.T, levels=[region.bound], colors="grey")
axes.scatter(phi, psi, s=12)
axes.set(xlabel="φ / °", ylabel="ψ / °", xlim=(-180, 180), ylim=(-180, 180))
plt.show()

# %% [markdown]
# ## What is given stays
#
# The frames of some residues may be known, a motif: these have no noise, and the network was trained with such cases.
# Here they are residues 20 – 35 of a natural chain that it has not seen.

# %%
known = torch.zeros(64, dtype=torch.bool)
known[20:36] = True
(found,) = sample(network, [Task(length=64, seed=0, known=known, frames=frames)], plan)
built = atoms_of(found)
junctions = (built[1:, 0] - built[:-1, 2]).norm(dim=-1)[[19, 35]]
print("C–N bonds where it joins:", [round(float(bond), 2) for bond in junctions], "Å")
Turnable(
    as_atoms(built), "A new backbone about sixteen residues of another", chain=True
)

# %% [markdown]
# Secondary structure can be asked for, too, a letter per residue; what is left open is up to the network. Asked for
# (above), and found in what it made (below):

# %%
asked = torch.full((48,), OPEN)
asked[5:20], asked[26:42] = 0, 0  # two helices
(found,) = sample(network, [Task(length=48, seed=1, structure=asked)], plan)
print("".join("HE-."[token] for token in asked.tolist()))
print("".join(secondary_structure(atoms_of(found))))

# %% [markdown]
# The program does the same with files: `python -m examples.generate_backbones sample --motif FILE.pdb --residues
# 20-35 --lengths 64`, and `train` learns from your own structures.
