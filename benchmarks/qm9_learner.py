"""One side learns a property of QM9: ``PYTHON -m benchmarks.qm9_learner JOB``, in the interpreter of that side.

The job names a file of molecules and targets, the side and its settings (``benchmarks/qm9.py`` writes both). Either it
asks how long a step takes (`pace`, seconds to look for); or for a number of steps, over which the learning rate follows
a cosine to zero. Then one line of JSON is printed for each of `points` points of the learning curve: the error of the
averaged weights on the validation molecules, and at the end on the test molecules. Needs torch and what the side needs.
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


class Learner:
    """A model, and its steps with clipping and averaged weights."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(job["seed"])
        self.data = torch.load(job["data"], weights_only=True)
        self.settings = job["settings"]
        self.model = SIDES[job["side"]](self.data, self.settings["model"])
        self.optimizer = optimizer_of(self.model, self.settings)
        self.averaged = AveragedModel(self.model, multi_avg_fn=average(self.settings["ema"]))
        self.generator = torch.Generator().manual_seed(job["seed"])
        self.order = torch.empty(0, dtype=torch.long)

    def step(self, share: float) -> float:
        """The loss, of a step with this share of the full learning rate."""
        size = self.settings["batch_size"]
        if len(self.order) < size:
            self.order = self.data["train"][torch.randperm(len(self.data["train"]), generator=self.generator)]
        batch, self.order = collate(self.data, self.order[:size]), self.order[size:]
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings["lr"] * share
        self.model.train()
        self.optimizer.zero_grad()
        found = self.model(batch)
        loss = LOSSES[self.settings["loss"]](found, wanted(found, batch["target"]))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"])
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        return float(loss.detach())

    def error(self, part: str) -> list[float]:
        """Of the averaged weights, on molecules to validate or to test."""
        return mean_error(self.averaged, batches_of(self.data, self.data[part], 50))


def learn(job: dict[str, Any]) -> None:
    """All steps, with the points of the learning curve."""
    learner, steps, points = Learner(job), job["steps"], 0
    parameters = sum(weight.numel() for weight in learner.model.parameters())
    for done in range(1, steps + 1):
        loss = learner.step(share((done - 1) / steps, job["settings"]["warmup"]))
        if done * job["points"] >= steps * (points + 1):
            points += 1
            point = {"steps": done, "train": loss, "parameters": parameters, "valid": learner.error("valid")}
            print(json.dumps(point | ({"test": learner.error("test")} if done == steps else {})), flush=True)


def pace(job: dict[str, Any]) -> None:
    """Seconds of processor time of a step, after a few that do not count."""
    learner, steps = Learner(job), 0
    for _ in range(5):
        learner.step(0.01)
    start, spent = time.process_time(), 0.0
    while spent < job["pace"]:
        learner.step(0.01)
        spent, steps = time.process_time() - start, steps + 1
    print(json.dumps({"seconds": spent / steps, "steps": steps}))


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    (pace if "pace" in asked else learn)(asked)
