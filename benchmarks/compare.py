"""Speed, memory and growth: ``python -m benchmarks.compare [--peer DIR] [--out DIR] [--smoke]``.

Every measurement runs in a process of its own, on one thread; where two sides are compared they alternate, and the
ratio is taken from the medians. The published package comes from a folder made with

    pip install --target DIR --no-deps equiformer-pytorch==0.5.4 taylor-series-linear-attention \
        rotary-embedding-torch opt-einsum filelock
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import cases, process
from benchmarks.cases import Case
from benchmarks.process import ROOT


def run(side: Path, case: Case, *, steps: int, floor: bool = False) -> dict[str, float]:
    """One process of :mod:`benchmarks.worker`."""
    job = {"model": case.model, "points": case.points, "batch": case.batch, "steps": steps, "warmup": 2, "floor": floor}
    return process.run("benchmarks.worker", side, job)[-1]


def together(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: median(r[key] for r in runs) for key in runs[0]}


def compare(case: Case, peer: Path | None, rounds: int, steps: int) -> dict[str, Any]:
    """Both sides, alternating."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(run(ROOT, case, steps=steps))
        if peer is not None:
            theirs.append(run(peer, case, steps=max(3, steps // 4)))
    row: dict[str, Any] = {"what": case.what, "wanted": case.wanted, "ours": together(ours)}
    if theirs:
        row["peer"] = together(theirs)
        row["faster"] = row["peer"]["step_s"] / row["ours"]["step_s"]
        row["smaller"] = row["peer"]["peak_mb"] / row["ours"]["peak_mb"]
    return row


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log(value) over log(size), by least squares."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def growth(points: Sequence[int], degrees: Sequence[int], steps: int) -> dict[str, Any]:
    """Training steps of this package with more points, and with more degrees."""
    by_points = [run(ROOT, cases.growth_in_points(n), steps=max(3, steps // 2)) for n in points]
    by_degrees = [run(ROOT, cases.growth_in_degrees(d), steps=steps) for d in degrees]
    large = [i for i, n in enumerate(points) if n >= points[-1] / 16]
    high = [i for i, d in enumerate(degrees) if d >= 4] or list(range(len(degrees)))
    return {
        "points": list(points),
        "by_points": by_points,
        "exponent_time": exponent([points[i] for i in large], [by_points[i]["step_s"] for i in large]),
        "exponent_memory": exponent([points[i] for i in large], [by_points[i]["peak_mb"] for i in large]),
        "degrees": list(degrees),
        "by_degrees": by_degrees,
        "exponent_degrees": exponent([degrees[i] for i in high], [by_degrees[i]["step_s"] for i in high]),
    }


def depths(shallow: int, deep: int, steps: int) -> dict[str, Any]:
    """Reversible and plain blocks, shallow and deep."""
    return {
        f"{depth}{' reversible' if reversible else ''}": run(ROOT, cases.depth_case(depth, reversible), steps=steps)
        for depth in (shallow, deep)
        for reversible in (False, True)
    }


def machine() -> dict[str, str]:
    """Where the figures come from."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": "1",
        "seed": "0",
    }


def report(result: dict[str, Any]) -> None:
    """The tables, as Markdown."""
    columns = ("training step", "ours ms", "peer ms", "faster", "wanted", "ours MB", "peer MB", "smaller")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in result["compared"]:
        ours, peer = row["ours"], row.get("peer")
        theirs = (
            (f"{peer['step_s'] * 1e3:.0f}", f"{row['faster']:.1f}×", f"{peer['peak_mb']:.0f}") if peer else ("–",) * 3
        )
        smaller = f"{row['smaller']:.1f}×" if peer else "–"
        print(
            f"| {row['what']} | {ours['step_s'] * 1e3:.0f} | {theirs[0]} | {theirs[1]} | {row['wanted']}× "
            f"| {ours['peak_mb']:.0f} | {theirs[2]} | {smaller} |"
        )
    floor = result["floor"]
    share = floor["flops"] / floor["gemm_flops_per_s"] / floor["step_s"]
    print(f"\nshare of the matrix-product floor: {share:.0%} ({result['floor_what']})")
    print(f"import: {floor['import_s']:.2f} s and {floor['import_mb']:.0f} MB beyond torch")
    grown = result["growth"]
    print("\n| points | ms | MB |\n|---|---|---|")
    for n, row in zip(grown["points"], grown["by_points"], strict=True):
        print(f"| {n} | {row['step_s'] * 1e3:.0f} | {row['peak_mb']:.0f} |")
    print(f"exponents: time {grown['exponent_time']:.2f}, memory {grown['exponent_memory']:.2f}")
    print("\n| degrees | construct s | step ms |\n|---|---|---|")
    for d, row in zip(grown["degrees"], grown["by_degrees"], strict=True):
        print(f"| {d} | {row['construct_s']:.2f} | {row['step_s'] * 1e3:.0f} |")
    print(f"exponent of the step's time in the number of degrees: {grown['exponent_degrees']:.2f}")
    print("\n| depth | step ms | peak MB | parameters |\n|---|---|---|---|")
    for name, row in result["depths"].items():
        print(f"| {name} | {row['step_s'] * 1e3:.0f} | {row['peak_mb']:.0f} | {row['parameters']:.0f} |")


def plot(result: dict[str, Any], path: Path) -> None:
    """Growth in points and degrees, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    grown = result["growth"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.loglog(grown["points"], [r["step_s"] for r in grown["by_points"]], "o-", label="seconds per training step")
    left.loglog(grown["points"], [r["peak_mb"] / 1024 for r in grown["by_points"]], "s--", label="peak memory, GB")
    left.set(xlabel="points (16 neighbours)", title=f"time ∝ N^{grown['exponent_time']:.2f}")
    left.legend()
    right.loglog(grown["degrees"], [r["step_s"] for r in grown["by_degrees"]], "o-", label="seconds per training step")
    right.loglog(grown["degrees"], [r["construct_s"] for r in grown["by_degrees"]], "s--", label="seconds to construct")
    right.set(xlabel="degrees", title=f"time ∝ degrees^{grown['exponent_degrees']:.2f} from 4 on")
    right.set_xticks(grown["degrees"], [str(d) for d in grown["degrees"]])
    right.minorticks_off()
    right.legend()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--peer", type=Path, help="folder with the published package; without it only ours is measured")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where JSON and plot go")
    parser.add_argument("--rounds", type=int, default=3, help="processes per side")
    parser.add_argument("--steps", type=int, default=12, help="timed steps per process")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, under a minute: does it run at all?")
    args = parser.parse_args(arguments)

    compared = list(cases.COMPARED.values())
    points, degrees, deep, floor = [128, 256, 512, 1024, 2048, 4096, 8192], list(range(1, 9)), 48, cases.FLOOR_CASE
    if args.smoke:
        compared, points, degrees, deep = [cases.smoke(c) for c in compared], [16, 32], [1, 2], 4
        floor, args.rounds, args.steps = cases.smoke(floor), 1, 2
    result: dict[str, Any] = {"machine": machine(), "compared": []}
    for case in compared:
        result["compared"].append(compare(case, args.peer, args.rounds, args.steps))
    result["floor"] = run(ROOT, floor, steps=args.steps, floor=True)
    result["floor_what"] = floor.what
    result["growth"] = growth(points, degrees, args.steps)
    result["depths"] = depths(4 if not args.smoke else 2, deep, args.steps)
    report(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "compare.json").write_text(json.dumps(result, indent=1))
    plot(result, args.out / "growth.png")


if __name__ == "__main__":
    main()
