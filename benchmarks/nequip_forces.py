"""NequIP learns forces: ``NEQUIP_PYTHON nequip_forces.py JOB``, in an environment of its own with nequip 0.19.1.

The model, the loss (squared errors of forces and of energies per atom, 1 : 1) and the averaged weights are those of
NequIP's tutorial configuration but for what the job says, the optimizer is the tutorial's Adam or NequIP's own Muon;
the learning rate falls along a cosine of the budget, as ours does, where the tutorial waits for plateaus of a thousand
epochs. Prints a line of JSON at the end. Needs nothing
of this package.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch

OPTIONS = {
    "num_layers": 4,
    "l_max": 1,
    "parity": True,
    "num_features": 32,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 64,
    "num_bessels": 8,
    "polynomial_cutoff_p": 6,
}
WARMUP = 0.02


def learn(job: dict[str, Any]) -> None:
    """Adam on the job's files until its processor time is spent."""
    # NequIP is no dependency: pyright need not find it.
    import nequip  # pyright: ignore[reportMissingImports]
    from ase.io import read
    from nequip.data import AtomicDataDict, from_ase  # pyright: ignore[reportMissingImports]
    from nequip.data.transforms import (  # pyright: ignore[reportMissingImports]
        ChemicalSpeciesToAtomTypeMapper,
        NeighborListTransform,
    )
    from nequip.model import MuonParamGroups, NequIPGNNModel  # pyright: ignore[reportMissingImports]
    from nequip.train import MuonWithAuxAdam  # pyright: ignore[reportMissingImports]
    from nequip.utils.global_state import set_global_state  # pyright: ignore[reportMissingImports]

    set_global_state()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    frames: dict[str, Any] = {split: read(job[split], ":") for split in ("train", "test")}
    species = sorted({symbol for atoms in frames["train"] for symbol in atoms.get_chemical_symbols()})
    transforms = (ChemicalSpeciesToAtomTypeMapper(species), NeighborListTransform(job["cutoff"]))

    def graph(atoms: Any) -> Any:
        data = from_ase(atoms, include_keys=["energy", "forces"])
        for transform in transforms:
            data = transform(data)
        return data

    graphs = {split: [graph(atoms) for atoms in members] for split, members in frames.items()}
    count = len(frames["train"][0])
    forces = np.concatenate([atoms.get_forces() for atoms in frames["train"]])
    symbols = np.concatenate([atoms.get_chemical_symbols() for atoms in frames["train"]])
    energy = float(np.mean([atoms.get_potential_energy() for atoms in frames["train"]])) / count
    neighbours = float(np.mean([data["edge_index"].shape[1] / count for data in graphs["train"]]))
    model = NequIPGNNModel(
        seed=job["seed"],
        model_dtype="float32",
        type_names=species,
        r_max=job["cutoff"],
        avg_num_neighbors=neighbours,
        per_type_energy_shifts=dict.fromkeys(species, energy),
        per_type_energy_scales={name: float(np.sqrt((forces[symbols == name] ** 2).mean())) for name in species},
        **(OPTIONS | job["model"]),
    )
    if job["optimizer"] == "muon":
        same = {"lr": job["lr"], "weight_decay": 0.0}
        optimizer = MuonWithAuxAdam(MuonParamGroups(model, same, same))
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=job["lr"])
    averaged = [weight.detach().clone() for weight in model.parameters()]
    generator = torch.Generator().manual_seed(job["seed"])
    spent, steps = 0.0, 0

    def errors(members: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = AtomicDataDict.batched_from_list(members)
        out = model(dict(batch))
        return (out["total_energy"] - batch["total_energy"]).flatten() / count, out["forces"] - batch["forces"]

    start = time.process_time()
    while spent < 1:
        order = torch.randperm(len(graphs["train"]), generator=generator).tolist()
        for first in range(0, len(order), job["batch_size"]):
            spent = min((time.process_time() - start) / job["budget"], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = job["lr"] * min(spent / WARMUP, 1) * (1 + math.cos(math.pi * spent)) / 2
            optimizer.zero_grad()
            energies, force = errors([graphs["train"][i] for i in order[first : first + job["batch_size"]]])
            loss = job["energy_weight"] * energies.square().mean() + force.square().mean()
            loss.backward()
            optimizer.step()
            steps += 1
            decay = min(job["ema"], (1 + steps) / (10 + steps))
            for mean, weight in zip(averaged, model.parameters(), strict=True):
                mean.lerp_(weight.detach(), 1 - decay)
            if spent == 1:
                break
    cpu_seconds = time.process_time() - start
    with torch.no_grad():
        for weight, mean in zip(model.parameters(), averaged, strict=True):
            weight.copy_(mean)
    both = [errors(graphs["test"][i : i + 10]) for i in range(0, len(graphs["test"]), 10)]
    energies, force = (torch.cat([pair[k].detach() for pair in both]) for k in (0, 1))
    found = {
        "force_rmse": 1e3 * force.square().mean().sqrt().item(),
        "energy_rmse": 1e3 * energies.square().mean().sqrt().item(),
        "force_mae": 1e3 * force.abs().mean().item(),
        "cpu_seconds": cpu_seconds,
        "steps": steps,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "version": nequip.__version__,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    learn(json.loads(sys.argv[1]))
