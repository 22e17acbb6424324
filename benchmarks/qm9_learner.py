"""One side learns a property of QM9: ``PYTHON -m benchmarks.qm9_learner JOB``, in the interpreter of that side.

The job names a file of molecules and targets, the side and its settings (``benchmarks/qm9.py`` writes both). Trains
until the budget of processor time is spent; the learning rate follows a cosine of that time to zero. Prints one line of
JSON for each of `points` points of the learning curve: the error of the averaged weights on the validation molecules,
measured outside the time that is counted; and on the test molecules at the end, if the job wants it. Needs torch and
what the side needs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.qm9_sides import SIDES

LOSSES = {"l1": nn.functional.l1_loss, "l2": nn.functional.mse_loss, "huber": nn.functional.smooth_l1_loss}
Batch = dict[str, Any]


def batches_of(data: dict[str, Any], places: Tensor, size: int) -> list[Batch]:
    """Molecules side by side, each batch with the edges of all."""
    return [collate(data, chosen) for chosen in places.split(size)]


def collate(data: dict[str, Any], places: Tensor) -> Batch:
    """Atoms and edges (sender, receiver) of some molecules, and their targets."""
    atoms = [slice(*data["starts"][place : place + 2].tolist()) for place in places.tolist()]
    edges = [slice(*data["edge_starts"][place : place + 2].tolist()) for place in places.tolist()]
    sizes = torch.tensor([one.stop - one.start for one in atoms])
    first = (sizes.cumsum(0) - sizes).tolist()
    return {
        "numbers": torch.cat([data["numbers"][one] for one in atoms]),
        "pos": torch.cat([data["pos"][one] for one in atoms]),
        "edge_index": torch.cat(
            [data["edges"][:, one] + start for one, start in zip(edges, first, strict=True)], dim=1
        ),
        "batch": torch.arange(len(atoms)).repeat_interleave(sizes),
        "sizes": sizes,
        "target": data["target"][places],
    }


def share(progress: float, warmup: float) -> float:
    """Of the full learning rate."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def average(decay: float) -> Any:
    """Exponential average whose decay rises to `decay` with the number of steps."""

    @torch.no_grad()
    def step(averaged: Any, current: Any, steps: Any) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for mean, weight in zip(averaged, current, strict=True):
            mean.lerp_(weight, share)

    return step


def wanted(found: Tensor, target: Tensor) -> Tensor:
    """The target; where there are candidates (molecules, candidates, columns), the nearest to what was found."""
    if target.ndim == found.ndim:
        return target
    nearest = (found.detach()[:, None] - target).norm(dim=2).argmin(1)
    return target[torch.arange(len(found)), nearest]


@torch.no_grad()
def mean_error(model: nn.Module, batches: list[Batch]) -> list[float]:
    """Mean absolute error of each column, in units of the targets."""
    model.eval()
    pairs = [(model(batch), batch["target"]) for batch in batches]
    return torch.cat([(found - wanted(found, target)).abs() for found, target in pairs]).mean(0).tolist()


def optimizer_of(model: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """``adamw``, which every side has, or this package's ``muon``."""
    lr, decay = settings["lr"], settings["weight_decay"]
    if settings["optimizer"] == "muon":
        from equiformer_pytorch.training.optimizers import Muon  # not there in the others' interpreters

        return Muon(model, lr, weight_decay=decay)
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, betas=(0.9, 0.999))


def learn(job: dict[str, Any]) -> None:
    """Steps with clipping and averaged weights, until the budget is spent."""
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    data = torch.load(job["data"], weights_only=True)
    settings = job["settings"]
    model = SIDES[job["side"]](data, settings["model"])
    valid = batches_of(data, data["valid"], 50)
    optimizer = optimizer_of(model, settings)
    averaged = AveragedModel(model, multi_avg_fn=average(settings["ema"]))
    loss_of = LOSSES[settings["loss"]]
    parameters = sum(weight.numel() for weight in model.parameters())
    generator = torch.Generator().manual_seed(job["seed"])

    spent, steps, points, order = 0.0, 0, 0, torch.empty(0, dtype=torch.long)
    while spent < job["budget"]:
        start = time.process_time()
        if len(order) < settings["batch_size"]:
            order = data["train"][torch.randperm(len(data["train"]), generator=generator)]
        batch, order = collate(data, order[: settings["batch_size"]]), order[settings["batch_size"] :]
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"] * share(spent / job["budget"], settings["warmup"])
        model.train()
        optimizer.zero_grad()
        found = model(batch)
        loss = loss_of(found, wanted(found, batch["target"]))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
        optimizer.step()
        averaged.update_parameters(model)
        spent, steps = spent + time.process_time() - start, steps + 1
        if spent >= job["budget"] * (points + 1) / job["points"]:
            points += 1
            point = {"seconds": spent, "steps": steps, "train": float(loss.detach()), "parameters": parameters}
            point["valid"] = mean_error(averaged, valid)
            if spent >= job["budget"] and job["test"]:
                point["test"] = mean_error(averaged, batches_of(data, data["test"], 50))
            print(json.dumps(point), flush=True)


if __name__ == "__main__":
    learn(json.loads(sys.argv[1]))
