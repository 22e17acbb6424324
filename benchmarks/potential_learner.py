"""Our side learns a molecule: ``python -m benchmarks.potential_learner JOB``; the job names files, model and budget.

Trains until the budget is spent, by the clock that the job names; the learning rate follows a cosine of that time, so
that it ends at zero with the budget. Prints one line of JSON per epoch, or at the end alone where the job says so
(``"curve": false``), measured with averaged weights on the test file, outside the time that is counted.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import StructureDataset, collate_structures, load_structures, predict
from equiformer_pytorch.training.loop import learning_rate, ramped_average
from equiformer_pytorch.training.optimizers import optimizer_for
from equiformer_pytorch.training.potentials.errors import errors as errors_of

Structures = dict[str, Tensor]
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}


def errors(model: nn.Module, structures: Structures) -> tuple[Tensor, Tensor]:
    """Of the energy per atom (structures,), in eV, and of the forces (atoms, 3), in eV/Å."""
    out = predict(model, structures)
    atoms = torch.bincount(structures["batch"])
    return (out["energy"] - structures["energy"]) / atoms, out["forces"] - structures["forces"]


def measure(model: EquiformerPotential, structures: StructureDataset) -> dict[str, float]:
    """Root mean squares over structures and force components, and the mean absolute force error; meV and meV/Å."""
    found: Any = errors_of(model, structures)  # energies and forces are there, so none of these is None
    return {
        "force_rmse": 1e3 * found.force_rmse,
        "energy_rmse": 1e3 * found.energy_rmse,
        "force_mae": 1e3 * found.force_mae,
    }


def learn(job: dict[str, Any]) -> None:
    """The job's optimizer with clipping and averaged weights, until its budget is spent."""
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    cutoff = job["model"]["cutoff"]
    train, test = (load_structures(job[split], cutoff, dtype=torch.float32) for split in ("train", "test"))
    batches = DataLoader(train, batch_size=job["batch_size"], shuffle=True, collate_fn=collate_structures)
    species = sorted({int(z) for item in train.items for z in item["atomic_numbers"]})
    model = EquiformerPotential(species=species, **job["model"])
    model.fit(train.items)
    optimizer = optimizer_for(model, job.get("optimizer", "adamw"), job["lr"])
    averaged = AveragedModel(model, multi_avg_fn=ramped_average(job["ema"]))
    parameters = sum(weight.numel() for weight in model.parameters())

    counted, epoch, progress = dict.fromkeys(CLOCKS, 0.0), 0, 0.0
    while progress < 1:
        start = {name: clock() for name, clock in CLOCKS.items()}
        for structures in batches:
            spent = counted[job["clock"]] + CLOCKS[job["clock"]]() - start[job["clock"]]
            progress = min(spent / job["budget"], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = job["lr"] * learning_rate(round(1000 * progress), 1000, job["warmup"])
            optimizer.zero_grad()
            energy, force = errors(model, structures)
            loss = job["energy_weight"] * energy.square().mean() + job["forces_weight"] * force.square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), job["clip"])
            optimizer.step()
            averaged.update_parameters(model)
            if progress == 1:
                break
        counted = {name: counted[name] + clock() - start[name] for name, clock in CLOCKS.items()}
        epoch += 1
        if progress < 1 and not job.get("curve", True):
            continue
        point = {"epoch": epoch, **counted, **measure(cast(EquiformerPotential, averaged.module), test)}
        point["parameters"] = parameters
        print(json.dumps(point), flush=True)


if __name__ == "__main__":
    learn(json.loads(sys.argv[1]))
