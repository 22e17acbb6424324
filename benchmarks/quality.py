"""Learning: ``python -m benchmarks.quality --peer DIR`` trains both sides on real backbones with the same constructor.

Each side takes its best learning rate (the one with the lowest mean loss over the seeds). Reported are the held-out
denoising loss at equal steps, and at equal time: that of this package when it has trained as long as the published
package took. One thread; the sides alternate. DIR is made as ``benchmarks.compare`` says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import process
from benchmarks.cases import DENOISE
from benchmarks.compare import machine
from benchmarks.process import ROOT
from examples.denoising import data
from examples.denoising.settings import SHIPPED

MODEL = DENOISE | {"num_neighbors": 12}


def crops(path: Path, train: int, held_out: int) -> None:
    """Write crops of 64 residues of the shipped chains: many to train on, and some of other chains with their noise."""
    splits = data.load_file(SHIPPED)
    generator = torch.Generator().manual_seed(0)

    def draw(proteins: Sequence[Any], count: int) -> dict[str, torch.Tensor]:
        samples = [data.draw_crop(proteins[i % len(proteins)], generator, 64, 1.0) for i in range(count)]
        return {key: torch.stack([s[key] for s in samples]) for key in ("tokens", "coords", "mask", "noise")}

    torch.save({"train": draw(splits.train, train), "held_out": draw(splits.valid + splits.test, held_out)}, path)


def learn(side: Path, crops_file: Path, lr: float, seed: int, steps: int, every: int) -> list[dict[str, float]]:
    """One process of :mod:`benchmarks.learner`: the learning curve."""
    job = {"data": str(crops_file), "model": MODEL, "lr": lr, "seed": seed, "steps": steps, "every": every}
    return process.run("benchmarks.learner", side, job)


def best(curves: dict[float, list[list[dict[str, float]]]]) -> float:
    """The learning rate with the lowest mean final loss."""
    return min(curves, key=lambda lr: sum(curve[-1]["loss"] for curve in curves[lr]))


def mean_loss(curves: list[list[dict[str, float]]], seconds: float) -> float:
    """Mean over seeds of the loss at the last evaluation within so many seconds of training."""
    within = [
        [point["loss"] for point in curve if point["seconds"] <= seconds] or [curve[0]["loss"]] for curve in curves
    ]
    return sum(losses[-1] for losses in within) / len(within)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--peer", type=Path, help="folder with the published package; without it only ours learns")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3], help="learning rates to try")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--steps", type=int, default=300, help="steps at which the sides are compared")
    parser.add_argument("--longer", type=int, default=4, help="ours also trains so many times longer, for equal time")
    parser.add_argument("--smoke", action="store_true", help="a few steps: does it run at all?")
    args = parser.parse_args(arguments)
    every, held_out = 25, 24
    if args.smoke:
        args.rates, args.seeds, args.steps, args.longer, every, held_out = [2e-3], 1, 4, 1, 2, 2

    sides = {"ours": ROOT} | ({"peer": args.peer} if args.peer else {})
    curves: dict[str, dict[float, list]] = {side: {lr: [] for lr in args.rates} for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        crops_file = Path(folder) / "crops.pt"
        crops(crops_file, 4 if args.smoke else 1000, held_out)
        for lr in args.rates:
            for seed in range(args.seeds):
                for side, path in sides.items():
                    curve = learn(path, crops_file, lr, seed, args.steps, every)
                    curves[side][lr].append(curve)
                    print(f"{side} lr {lr:g} seed {seed}: loss {curve[-1]['loss']:.4f} in {curve[-1]['seconds']:.0f} s")
        result: dict[str, Any] = {"machine": machine(), "model": MODEL, "steps": args.steps, "curves": curves}
        rate = {side: best(curves[side]) for side in sides}
        at_steps = {side: mean_loss(curves[side][rate[side]], float("inf")) for side in sides}
        result |= {"best_rate": rate, "loss_at_equal_steps": at_steps}
        if "peer" in sides:
            budget = sum(curve[-1]["seconds"] for curve in curves["peer"][rate["peer"]]) / args.seeds
            longer = [
                learn(ROOT, crops_file, rate["ours"], seed, args.steps * args.longer, every)
                for seed in range(args.seeds)
            ]
            at_time = {"ours": mean_loss(longer, budget), "peer": at_steps["peer"]}
            result |= {"longer": longer, "seconds": budget, "loss_at_equal_time": at_time}

    print("\n| held-out loss | ours | peer | ratio | wanted |\n|---|---|---|---|---|")
    for name, losses, wanted in (
        (f"at {args.steps} steps", at_steps, 0.95),
        ("at equal time", result.get("loss_at_equal_time"), 0.85),
    ):
        if losses and "peer" in losses:
            ratio = losses["ours"] / losses["peer"]
            print(f"| {name} | {losses['ours']:.4f} | {losses['peer']:.4f} | {ratio:.3f} | ≤ {wanted} |")
        elif losses:
            print(f"| {name} | {losses['ours']:.4f} | – | – | ≤ {wanted} |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "quality.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
