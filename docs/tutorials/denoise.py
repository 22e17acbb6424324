# %% [markdown]
# # Denoise a backbone
#
# Noise of 1 Å is put on the backbone of a protein, and an `Equiformer` learns to tell, for each atom, where it belongs:
# one vector per point. This is `python denoise.py`, small and by hand: eighty steps on the forty real chains that the
# repository ships. The pieces are those of `examples/denoising`.

# %%
import matplotlib.pyplot as plt
import torch
from ase import Atoms

from docs.structures import Turnable
from equiformer_pytorch.training import SampleStream
from examples.denoising import evaluate
from examples.denoising.data import (
    ATOMS,
    NUM_TOKENS,
    draw_crop,
    fixed_noise,
    load_file,
    some_chains,
)
from examples.denoising.model import BackboneDenoiser, denoising_loss
from examples.denoising.settings import SHIPPED

torch.manual_seed(0)
NOISE = 1.0  # Å, standard deviation of each coordinate
splits = load_file(SHIPPED)
print(len(splits.train), "chains to train on,", len(splits.test), "to test on")


# %% tags=["hide-input"]
def as_atoms(chain, coords):
    symbols = [ATOMS[token % len(ATOMS)][0] for token in chain.tokens.tolist()]
    return Atoms(
        [s for s, there in zip(symbols, chain.mask.tolist(), strict=True) if there],
        coords[chain.mask].numpy(),
    )


chain = some_chains(splits.test, 1)[0]
Turnable(
    as_atoms(chain, chain.coords),
    f"{chain.name}, which is not trained on: N, CA and C of each residue",
    chain=True,
)

# %% [markdown]
# ## The model
#
# `BackboneDenoiser` is two `Equiformer`s with `reduce_dim_out=True`, whose `type1` is the displacement of each point.
# The first starts from where a linear map of the neighbours along the chain puts the points, the second from where the
# first leaves them: the less noise there is, the more the directions of edges say. A point attends to those within nine
# atoms along the chain, by an adjacency matrix, and to the eight nearest others; how far apart two points are along the
# chain is a feature of their edge.

# %%
model = BackboneDenoiser(
    NUM_TOKENS,
    dim=(16, 8, 4),
    depth=1,
    heads=2,
    dim_head=8,
    neighbors=8,
    chain_reach=9,
    networks=2,
    start_reach=9,
)
model.start.fit(some_chains(splits.train, 40), NOISE)
print(sum(p.numel() for p in model.parameters()), "parameters")

# %% [markdown]
# ## The loss
#
# The share of the noise's variance that is left, $|\epsilon + f(x + \epsilon)|^2 / |\epsilon|^2$, is one for a model
# that does nothing; what the first network leaves is added with a weight of 0.3. `SampleStream` draws crops of 32 residues and their noise. Sample $k$ depends on $k$ and the seed
# alone, so that runs can be resumed exactly.

# %%
STEPS, BATCH = 80, 2
stream = SampleStream(
    splits.train,
    lambda item, g: draw_crop(item, g, length=32, noise=NOISE),
    STEPS * BATCH,
    seed=0,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS)

losses = []
for batch in torch.utils.data.DataLoader(stream, BATCH):
    loss = denoising_loss(model, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
print(f"first ten steps {first:.2f}, last ten {last:.2f}")

# %%
figure, axes = plt.subplots()
axes.plot(losses, alpha=0.4)
axes.plot(torch.tensor(losses).unfold(0, 10, 1).mean(1), color="C0")
axes.set(xlabel="step", ylabel="loss", yscale="log")
plt.show()

# %% [markdown]
# ## Chains that were not trained on
#
# The network beside two baselines: doing nothing, and the best linear map of the neighbours along the chain.

# %%
test = some_chains(splits.test, 6)
predictors = {
    "nothing done": evaluate.predict_nothing,
    "linear, ±3 atoms along the chain": evaluate.LinearPredictor(
        some_chains(splits.train, 40), NOISE
    ),
    "Equiformer, 80 steps": evaluate.ModelPredictor(model.eval()),
}
for name, predictor in predictors.items():
    score = evaluate.score(predictor, test, NOISE)
    print(
        f"{name:34s} variance left {score.variance_left:.3f}   RMSD {score.rmsd:.2f} Å"
    )

# %% tags=["remove-input"]
noised = chain.coords + fixed_noise(chain, NOISE)
Turnable(as_atoms(chain, noised), f"{chain.name} with 1 Å of noise", chain=True)

# %% tags=["remove-input"]
denoised = noised + predictors["Equiformer, 80 steps"](chain, noised)
Turnable(as_atoms(chain, denoised), f"{chain.name} after the network", chain=True)

# %% [markdown]
# The whole run, 1200 steps of three wider networks with the optimizer Muon, leaves 0.113: [the
# example](../guide/denoising.md).
#
# **Next:** a network that knows the level of the noise can take it off in many small steps, and so [generate
# backbones](generate_backbones.py) from nothing but noise.
