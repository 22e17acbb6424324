# %% [markdown]
# # Smoothness and forces
#
# Forces are minus the derivative of the energy by the positions; the stress is its derivative by a strain $\varepsilon$
# of positions and cell together, over the volume:
#
# $$F_i = -\frac{\partial E}{\partial r_i}, \qquad \sigma = \frac1V \frac{\partial E}{\partial \varepsilon} .$$
#
# They are computed by automatic differentiation, exactly, and can be differentiated again: so a network can be trained
# on forces, and vibrations are exact. That asks three things of it.
#
# **Nothing may be detached.** Rotations of the edges carry their derivative ([frames](frames.py)).
#
# **Nothing may jump.** As an atom crosses the cutoff, energy and forces must be continuous, or dynamics gains or
# loses energy each time. Here an atom leaves the neighbourhood of three others, with random weights; and beside it the
# same network that sees only the nearest two neighbours, which jumps where two of them swap places:

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import torch

from equiformer_pytorch import EquiformerPotential

torch.manual_seed(0)
smooth = EquiformerPotential(species=[6], cutoff=3.0, dim=16, num_degrees=3, depth=2).double().eval()
capped = EquiformerPotential(**{**smooth.config, "max_neighbors": 2}).double().eval()
capped.load_state_dict(smooth.state_dict())
rest = torch.tensor([[0.0, 0, 0], [1.4, 0.2, 0], [0.3, 1.5, 0.4]]).double()
distances = torch.linspace(1.0, 3.6, 150, dtype=torch.float64)


def along(potential):
    """Energy and the force on the atom that leaves."""
    found = []
    for distance in distances.tolist():
        pos = torch.cat((rest, torch.tensor([[-0.6 * distance, -0.8 * distance, 0.0]]).double()))
        out = potential(torch.tensor([6, 6, 6, 6]), pos)
        force = (out["forces"][3] * torch.tensor([-0.6, -0.8, 0.0]).double()).sum()
        found.append((out["energy"].item(), force.item()))
    return torch.tensor(found).T


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
for potential, name in ((smooth, "all within the cutoff"), (capped, "the nearest two of them")):
    energy, force = along(potential)
    left.plot(distances, energy - energy[-1], label=name)
    right.plot(distances, force, label=name)
for axes, what in ((left, "energy / eV"), (right, "force outward / eV Å⁻¹")):
    axes.axvline(3.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="distance from the first atom / Å", ylabel=what)
left.legend()
plt.show()

# %% [markdown]
# So `max_neighbors` is for speed where forces need not be conservative; leave it out for dynamics.
#
# **Nothing may have a kink** where derivatives are taken: activations are SiLU, the leaky ReLU of MLP attention is
# smoothed, and norms are smooth at zero.
#
# ## The derivative is that of the energy
#
# Central differences of the energy approach the force as $h^2$ when the step $h$ shrinks, until rounding takes over.
# That is how tests hold it: `assert_gradients`.

# %% tags=["hide-input"]
pos = torch.cat((rest, torch.tensor([[-0.9, -1.2, 0.3]]).double()))
numbers = torch.tensor([6, 6, 6, 6])
exact = smooth(numbers, pos)["forces"]
direction = torch.randn(4, 3, dtype=torch.float64)
steps = torch.logspace(-7, -1, 25, dtype=torch.float64)
errors = []
for step in steps.tolist():
    ahead, behind = (smooth(numbers, pos + s * step * direction, forces=False)["energy"].item() for s in (1, -1))
    errors.append(abs((behind - ahead) / (2 * step) - (exact * direction).sum().item()))
figure, axes = plt.subplots()
axes.loglog(steps, errors, "o-", markersize=3, label="|difference − derivative|")
axes.loglog(steps[10:], 0.5 * errors[-1] * (steps[10:] / steps[-1]) ** 2, "--", color="grey", label="h²")
axes.set(xlabel="h / Å", ylabel="eV")
axes.legend()
plt.show()

# %% [markdown]
# Models whose forces come from a head of their own (direct prediction) are faster, and their forces may be more accurate
# one by one; but they are the derivative of nothing, so energy is not conserved, and relaxations may circle. Published
# networks of both kinds are here; `direct_prediction=False` is the gradient.
#
# Energies of atoms are summed in float64, since totals with reference energies have more digits than float32 holds,
# and differences of positions are taken in float64 before they are rounded.
