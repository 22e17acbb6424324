# %% [markdown]
# # Coming from 0.5.4, MACE, NequIP or fairchem
#
# What you know, and what it is called here. Read the part on the package that you come from.
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
    num_tokens=24,
    dim=(4, 4, 2),
    dim_head=(4, 4, 4),
    heads=(2, 2, 2),
    num_degrees=3,
    depth=2,
    reduce_dim_out=True,
)
out = model(
    torch.randint(0, 24, (1, 32)), torch.randn(1, 32, 3), torch.ones(1, 32).bool()
)
print(tuple(out.type0.shape), tuple(out.type1.shape))

# %% [markdown]
# ## From MACE
#
# Checked against the sources of mace-torch 0.3.16.
#
# | | MACE | here |
# |---|---|---|
# | train | `mace_run_train --name … --train_file …` | `equiformer train --train …` |
# | names of labels | `--energy_key REF_energy --forces_key REF_forces` (these are its defaults) | `--keys energy=REF_energy forces=REF_forces` |
# | cutoff | `--r_max 5.0` | `--cutoff 5.0` |
# | width | `--num_channels 128`, or in `--hidden_irreps "128x0e + 128x1o"` | `--dim 128` |
# | highest degree | `--max_L 1` (features), `--max_ell 3` (edges) | `--num-degrees 3`: degrees 0 … 2 (both) |
# | layers | `--num_interactions 2` | `--depth 2` |
# | parity of features | `0e + 1o + …`: $(-1)^l$ | $(-1)^l$ |
# | mirror images may differ | `--use_so3 True` | `--chiral` |
# | reference energies | `--E0s average` (least squares), or structures with `config_type=IsolatedAtom` | fitted, or atoms alone where the data have them |
# | loss | `--energy_weight 1 --forces_weight 100`; of stress only with `--loss stress`, `huber` or `universal` | `--energy-weight 4 --force-weight 10 --stress-weight 1`, the last of virials |
# | averaged weights | `--ema --ema_decay 0.99` | on: `--ema 0.99` |
# | resume | `--restart_latest` | `--resume`, with the same bits |
# | ASE | `MACECalculator(model_paths=…)` | `EquiformerCalculator("potential.pt")` |
# | several at once | `model_paths=[…]` | `EquiformerCalculator(["one.pt", "two.pt"])` |
# | LAMMPS | `mace_create_lammps_model`: `pair_style mace`, or with `--format mliap` ML-IAP | `clients.lammps.connect(…)`: `fix external` |
# | dtype | `--default_dtype float64`, its default | training in float32; `EquiformerCalculator(…, dtype=torch.float64)` |
#
# ## From NequIP
#
# Checked against the sources of nequip 0.19.1 (before 0.7 its configuration was another).
#
# | | NequIP | here |
# |---|---|---|
# | train | `nequip-train -cn config.yaml` | `equiformer train --train …` |
# | names of labels | `key_mapping: {REF_energy: total_energy, REF_forces: forces}` | `--keys energy=REF_energy forces=REF_forces` |
# | cutoff | `r_max: 5.0`, of the model and of its `NeighborListTransform` | `--cutoff 5.0` |
# | width | `num_features: 128` | `--dim 128` |
# | highest degree | `l_max: 2` (both) | `--num-degrees 3`: degrees 0 … 2 (both) |
# | layers | `num_layers: 2` | `--depth 2` |
# | parity of features | `parity: false`: $(-1)^l$; `true`, its default: both kinds | $(-1)^l$ |
# | reference energies | `per_type_energy_shifts` | fitted, or atoms alone where the data have them |
# | loss | `coeffs` of `EnergyForceStressLoss` | `--energy-weight 4 --force-weight 10 --stress-weight 1`, the last of virials |
# | averaged weights | `EMALightningModule` with `ema_decay: 0.999` | on: `--ema 0.99` |
# | resume | `++ckpt_path=last.ckpt` | `--resume`, with the same bits |
# | ASE | `nequip-compile`, `NequIPCalculator.from_compiled_model(…)` | `EquiformerCalculator("potential.pt")` |
# | LAMMPS | `pair_style nequip`, or `nequip-prepare-lmp-mliap`: ML-IAP | `clients.lammps.connect(…)`: `fix external` |
# | dtype | `model_dtype: float64` | training in float32; `EquiformerCalculator(…, dtype=torch.float64)` |
#
# ## Units and conventions of both
#
# Theirs keep the units of the data, which their calculators take to be eV and Å unless they are given factors; here
# it is eV and Å throughout. The stress is positive under tension and a virial is $-V$ times the stress, in all three
# and in ASE. MACE's default features, degrees 0 and 1, are those of `--num-degrees 2`; the default here are degrees
# 0 to 3. Features of degree $l$ are in e3nn's real basis, as theirs.

# %%
from equiformer_pytorch import EquiformerPotential

potential = EquiformerPotential(
    species=["Cu", "Au"], cutoff=5.0, dim=32, num_degrees=4, depth=2
)
print(
    sum(p.numel() for p in potential.parameters()),
    "parameters, gives",
    sorted(potential.gives),
)

# %% [markdown]
# ## From fairchem
#
# Checked against the sources of fairchem-core 2.24.0 and, for what version 2 has no longer, 1.10.0.
#
# | fairchem | here |
# |---|---|
# | `unit = pretrained_mlip.load_predict_unit("uma.pt")`, `FAIRChemCalculator(unit, task_name="omat")` | `network = ESCNMD.from_checkpoint("uma.pt", task="omat")`, `EquiformerCalculator(network)` |
# | on a GPU where there is one | `EquiformerCalculator(…, device="cuda")` |
# | `inference_settings="high-precision"` (the default multiplies in TF32 on GPUs) | float32 unless torch is told otherwise; `dtype=torch.float64` |
# | `atoms.info["charge"]`, `atoms.info["spin"]` | the same, with the same defaults |
# | experts merged for the first structure: `inference_settings` but `"batch"` (`"turbo"` is gone) | the calculator mixes them once for a composition; `model.merged(atoms)` is a network without experts |
# | `OCPCalculator(checkpoint_path="eq2_31M_ec4_allmd.pt")` (fairchem 1, OC20) | `EquiformerCalculator("eq2_31M_ec4_allmd.pt")` |
# | the same with OMat24's `eqV2_31M_omat.pt` (fairchem 1, model `hydra`) | the same: energy, forces and stress; heads for denoising are left out |
# | a configuration's `model:` of `equiformer_v2`, or `backbone:` of `equiformer_v2_backbone` (fairchem 1) | `EquiformerV2(**entry)` without `name`, `model` and what only fairchem has: `use_pbc_single`, `use_energy_lin_ref`, `load_energy_lin_ref`, `activation_checkpoint`; of `heads:` the options of `rank2_symmetric_head` as `stress_head=…` |
# | `.aselmdb` data sets | `load_structures("data.aselmdb", …)`, with `pip install "equiformer-pytorch[lmdb]"` |
# | fine-tuning by a configuration, `fairchem -c …` | `equiformer train --train … --checkpoint file.pt` |
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
water = {
    "atomic_numbers": torch.tensor([8, 1, 1]),
    "pos": torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
}
print({name: tuple(x.shape) for name, x in model(**water).items()})
