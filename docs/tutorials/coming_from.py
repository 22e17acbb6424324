# %% [markdown]
# # Coming from 0.5.4, MACE, NequIP or fairchem
#
# What is called how here.
#
# ## From lucidrains' package 0.5.4
#
# Scripts run unchanged: the constructor, the call and the import paths are the same. Weights are not compatible,
# since the layers are others.
#
# | 0.5.4 | here |
# |---|---|
# | `from equiformer_pytorch import Equiformer` | the same |
# | `from equiformer_pytorch.equiformer_pytorch import Equiformer, L2DistAttention, MLPAttention` | the same |
# | `from equiformer_pytorch.irr_repr import rot, irr_repr` | the same; `irr_repr(1, angles)` is `rot` |
# | `dot_product_attention=True` | `l2_dist_attention=True`; the old name warns |
# | `splits=4` | without effect, warns: memory is bounded by itself |
# | `adj_mat` or `edges` that nothing uses | an error that says so |
# | `embedding_grad_frac` scales gradients of float features | acts on embeddings alone |
# | – | flat calls (`batch`, `edge_index`, `cell`), `output_degrees`, `return_all_degrees`, `return_attn`, `reflection_equivariant`, `condition_dim`, `dim_out` |
#
# What was wrong there and is right here: [Upgrading](../upgrade.md).

# %%
import torch

from equiformer_pytorch import Equiformer

model = Equiformer(
    num_tokens=24, dim=(4, 4, 2), dim_head=(4, 4, 4), heads=(2, 2, 2), num_degrees=3, depth=2, reduce_dim_out=True
)
out = model(torch.randint(0, 24, (1, 32)), torch.randn(1, 32, 3), torch.ones(1, 32).bool())
print(tuple(out.type0.shape), tuple(out.type1.shape))

# %% [markdown]
# ## From MACE or NequIP
#
# | | MACE | NequIP | here |
# |---|---|---|---|
# | train | `mace_run_train --train_file …` | `nequip-train -cn config.yaml` | `equiformer train --train …` |
# | names of labels | `--energy_key REF_energy --forces_key REF_forces` | `key_mapping` | `--keys energy=REF_energy forces=REF_forces` |
# | cutoff | `--r_max 5.0` | `r_max: 5.0` | `--cutoff 5.0` |
# | width | `--hidden_irreps "128x0e + 128x1o"` | `num_features: 128` | `--dim 128` |
# | highest degree | `--max_ell 3` (edges), `--max_L 1` (features) | `l_max: 2` | `--num-degrees 3`: degrees 0 … 2 |
# | layers | `--num_interactions 2` | `num_layers: 2` | `--depth 2` |
# | parity | irreps `1o`, `1e` | `parity: true` | on; `--chiral` turns it off |
# | reference energies | `--E0s average`, or isolated atoms | `per_type_energy_shifts` | fitted, or isolated atoms where the data have them |
# | loss | `--energy_weight --forces_weight --stress_weight` | `loss` in the configuration | `--energy-weight --force-weight --stress-weight` |
# | averaged weights | `--ema --ema_decay 0.99` | `EMALightningModule` | `--ema 0.99` |
# | resume | `--restart_latest` | `ckpt_path` | `--resume`, with the same bits |
# | ASE | `MACECalculator(model_paths=…)` | `NequIPCalculator.from_compiled_model(…)` | `EquiformerCalculator("potential.pt")` |
# | several at once | `model_paths=[…]` | – | `EquiformerCalculator(["one.pt", "two.pt"])` |
# | LAMMPS | `mace_create_lammps_model`, ML-IAP or `pair_style mace` | `pair_style nequip` | `clients.lammps.connect(…)`, `fix external` |
# | dtype | `--default_dtype float64` | `default_dtype` | `EquiformerCalculator(…, dtype=torch.float64)` |
#
# Units are eV and Å everywhere, and the stress is positive under tension, as ASE's. A MACE of invariants, L = 0 … 1,
# is nearest to `--num-degrees 2`; the default here are degrees up to 3. Features of degree l are e3nn's real basis,
# without its parity where `--chiral` is given.

# %%
from equiformer_pytorch import EquiformerPotential

potential = EquiformerPotential(species=["Cu", "Au"], cutoff=5.0, dim=32, num_degrees=4, depth=2)
print(sum(p.numel() for p in potential.parameters()), "parameters, gives", sorted(potential.gives))

# %% [markdown]
# ## From fairchem
#
# | fairchem | here |
# |---|---|
# | `FAIRChemCalculator(pretrained_mlip.load_predict_unit("uma.pt"), task_name="omat")` | `EquiformerCalculator(ESCNMD.from_checkpoint("uma.pt", task="omat"))` |
# | `atoms.info["charge"]`, `atoms.info["spin"]` | the same |
# | `inference_settings="turbo"`, which merges experts once | `model.merged(atoms)` |
# | `OCPCalculator(checkpoint_path="eqV2….pt")` (fairchem 1) | `EquiformerCalculator(EquiformerV2.from_checkpoint("eqV2….pt"))` |
# | a configuration's `model:` entry, of `equiformer_v2` | `EquiformerV2(**entry)` without `name` |
# | `.aselmdb` data sets | `load_structures("data.aselmdb", …)`, with `pip install "equiformer-pytorch[lmdb]"` |
# | fine-tuning by a configuration | `equiformer train --train … --checkpoint file.pt` |
#
# Files are read without fairchem, and nothing in them is run. What is exactly the same and what differs: [Published
# models](../published_models.md).

# %%
from equiformer_pytorch import ESCNMD

model = ESCNMD(
    sphere_channels=16,
    hidden_channels=16,
    edge_channels=16,
    num_layers=1,
    lmax=2,
    mmax=2,
    use_dataset_embedding=False,
    regress_forces=True,
    direct_forces=False,
)
water = {"atomic_numbers": torch.tensor([8, 1, 1]), "pos": torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])}
print({name: tuple(x.shape) for name, x in model(**water).items()})
