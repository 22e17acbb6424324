"""One side learns to denoise backbones: ``python -m benchmarks.learner PATH JOB``; the job names a file of crops.

PATH is put first on the module path, as in :mod:`benchmarks.worker`. Prints one line of JSON: seconds, losses.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor


def error(model: torch.nn.Module, tokens: Tensor, coords: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    """Mean square, over the real points, of the noise that is left (Å²); 1 for doing nothing."""
    predicted = model(tokens, coords + noise, mask).type1
    return (predicted + noise)[mask].square().mean()


def measure(model: torch.nn.Module, crops: dict[str, Tensor]) -> float:
    """Mean error over crops that bring their noise."""
    parts = zip(*(crops[key] for key in ("tokens", "coords", "mask", "noise")), strict=True)
    with torch.no_grad():
        return float(torch.stack([error(model, *(t[None] for t in part)) for part in parts]).mean())


def learn(job: dict[str, Any]) -> None:
    """Train with Adam and clipping on one crop per step, the same crops and noise for every side; then measure."""
    from equiformer_pytorch import Equiformer

    torch.set_num_threads(1)
    data = torch.load(job["data"], weights_only=True)
    torch.manual_seed(job["seed"])
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["model"].items()}
    model = Equiformer(**options)
    optimizer = torch.optim.Adam(model.parameters(), lr=job["lr"])
    generator = torch.Generator().manual_seed(1000 + job["seed"])
    train = data["train"]
    count = train["tokens"].shape[0]

    seconds = 0.0
    for _ in range(job["steps"]):
        start = time.perf_counter()
        pick = torch.randint(count, (1,), generator=generator)
        noise = torch.randn(1, *train["coords"].shape[1:], generator=generator)
        optimizer.zero_grad()
        error(model, train["tokens"][pick], train["coords"][pick], train["mask"][pick], noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - start
    model.eval()
    losses = {name: measure(model, data[name]) for name in ("validation", "held_out")}
    print(json.dumps({"seconds": seconds} | losses))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    learn(json.loads(sys.argv[2]))
