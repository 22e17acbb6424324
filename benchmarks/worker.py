"""One side, one case, one process: ``python -m benchmarks.worker PATH '{"case": …}'`` prints one line of JSON.

PATH is put first on the module path, so that the package found there is the one that is measured.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def resident_mb() -> float:
    """Memory that the process holds now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float:
    """Most memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def processor_seconds(step: Callable[[], Any], count: int) -> float:
    """Of a step, the median of so many."""
    gc.collect()
    seconds = []
    for _ in range(count):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return median(seconds)


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of a training step (median), of import and construction, and memory above the imported torch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.randn(8, 8).matmul(torch.randn(8, 8)).sum()
    before = resident_mb()

    start = time.perf_counter()
    from equiformer_pytorch import Equiformer

    imported = time.perf_counter() - start
    after_import = resident_mb()
    start = time.perf_counter()
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["model"].items()}
    model = Equiformer(**options)
    constructed = time.perf_counter() - start

    batch, points = job["batch"], job["points"]
    tokens = torch.randint(0, job["model"]["num_tokens"], (batch, points))
    coordinates = torch.randn(batch, points, 3) * (points / 0.05) ** (1 / 3) / 3
    mask = torch.ones(batch, points, dtype=torch.bool)

    def step() -> None:
        model.zero_grad()
        out = model(tokens, coordinates, mask)
        loss = out.type0.square().sum() + (out.type1.square().sum() if out.type1 is not None else 0)
        loss.backward()

    for _ in range(job["warmup"]):
        step()
    gc.collect()
    seconds = []
    while len(seconds) < job["steps"]:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    result = {
        "step_s": median(seconds),
        "import_s": imported,
        "construct_s": constructed,
        "import_mb": after_import - before,
        "peak_mb": peak_mb() - before,
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    if job.get("floor"):
        result |= floor(step)
    return result


def floor(step: Any) -> dict[str, float]:
    """Floating-point operations of the matrix products of a step, and the rate of one large product."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        a.matmul(b)
        seconds.append(time.perf_counter() - start)
    return {"flops": float(counter.get_total_flops()), "gemm_flops_per_s": 2 * size**3 / median(seconds)}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(measure(json.loads(sys.argv[2]))))
