# %% [markdown]
# # Several GPUs, mixed precision, compilation, export
#
# This page was made on a CPU, so what is shown is that the numbers stay; on GPUs the code is the same, but for the names
# that comments give.
#
# ## Several GPUs
#
# Models are plain modules, so `DistributedDataParallel`, accelerate and Lightning take them as they are. The programs
# of this package run on accelerate: `accelerate launch denoise.py`, `accelerate launch -m equiformer_pytorch.cli
# train …`, or `torchrun --nproc-per-node 2 …`. By hand, two processes with half of a batch each:

# %%
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import torch

program = Path(mkdtemp()) / "two.py"
program.write_text("""
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from equiformer_pytorch import Equiformer

dist.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(0)
model = DistributedDataParallel(Equiformer(dim=8, depth=1, num_neighbors=4))
feats, coors = torch.randn(2, 16, 8), torch.randn(2, 16, 3)
mine = slice(dist.get_rank(), dist.get_rank() + 1)
model(feats[mine], coors[mine]).type0.square().mean().backward()
gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
if dist.get_rank() == 0:
    alone = Equiformer(dim=8, depth=1, num_neighbors=4)
    alone.load_state_dict(model.module.state_dict())
    alone(feats, coors).type0.square().mean().backward()
    expected = torch.cat([p.grad.flatten() for p in alone.parameters()])
    error = (gradient - expected).norm() / expected.norm()
    print(f"gradients of two processes are those of one to {error:.0e}")
dist.destroy_process_group()
""")
launch = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    str(program),
]
print(subprocess.run(launch, capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# ## Mixed precision
#
# Under autocast geometry stays in float32 at least: distances, rotations, envelopes, norms. Only features are rounded.

# %%
from equiformer_pytorch import Equiformer
from equiformer_pytorch.testing import equivariance_errors

torch.manual_seed(0)
model = Equiformer(dim=16, num_degrees=3, depth=1, num_neighbors=8).eval()
call = {"inputs": torch.randn(1, 32, 16), "coors": torch.randn(1, 32, 3)}


def mixed(**inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):  # "cuda" on GPUs
        return model(**inputs)


for name, function in (("float32", model), ("bfloat16", mixed)):
    errors = equivariance_errors(function, call, under=("rotation",), outputs={})[
        "rotation"
    ]
    print(
        f"{name:9s}",
        ", ".join(
            f"{part} is equivariant to {error:.0e}" for part, error in errors.items()
        ),
    )

# %% [markdown]
# Train potentials in float32 (`equiformer train --mixed-precision bf16` is there for those who want it), and run
# dynamics in float64.
#
# ## Compilation
#
# `model.layers.compile(fullgraph=True)` compiles the layers as one graph; published models compile as a whole. A
# [table](../potentials.md#compilation) says which parts compile for which use. Inductor takes a minute or more even for
# a small model, so here the backend is the one that only traces.

# %%
with torch.no_grad():
    plain = model(**call)
    model.layers.compile(fullgraph=True, backend="aot_eager")
    compiled = model(**call)
print(f"compiled: type1 differs by {(compiled.type1 - plain.type1).abs().max():.0e}")

# %% [markdown]
# ## Export
#
# `export_potential` turns a potential and its derivatives into one program of `torch.export`, for any number of
# structures, atoms and edges. It runs where this package is not installed, and
# `torch._inductor.aoti_compile_and_package` compiles it ahead of time, for C++ too: [how](../programs.md#no-package-at-all).

# %%
from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import export_potential, radius_graph

potential = EquiformerPotential(
    species=["H", "O"], cutoff=3.0, dim=8, num_degrees=2, depth=1
).double()
exported = export_potential(potential).module()

numbers = torch.tensor([8, 1, 1])
pos = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()
cell = 5 * torch.eye(3).double()[None]
edge_index, cell_offsets = radius_graph(pos, potential.cutoff, cell=cell)
given = {
    "atomic_numbers": numbers,
    "pos": pos,
    "batch": torch.zeros(3, dtype=torch.long),
}
out = exported(**given, cell=cell, edge_index=edge_index, cell_offsets=cell_offsets)
expected = potential(numbers, pos, cell=cell)
print({name: tuple(x.shape) for name, x in out.items()})
print(f"forces differ by {(out['forces'] - expected['forces']).abs().max():.0e} eV/Å")

# %% [markdown]
# ## Large structures
#
# There is nothing to set: above 1024 points neighbours are searched by cells, and work on edges is done in pieces where
# it would be large. In inner loops `unchecked_values(most_neighbors=…)` saves all waiting for the device: [Large
# structures](../guide/points.md#large-structures-compilation).
