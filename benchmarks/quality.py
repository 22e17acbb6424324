"""Learning: ``python -m benchmarks.quality --peer DIR`` trains both sides on real backbones with the same constructor.

Each side takes the learning rate with the lowest mean loss over the seeds on the chains that `denoise.py` validates and
tests on. Reported is the denoising loss on chains that served no other purpose (``data/fresh_chains.pkl``): at equal
steps, and at equal time, where this package trains for as many more steps as it is faster. One thread; the sides
alternate. DIR is made as ``benchmarks.compare`` says.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import distributions
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import equiformer_pytorch
from benchmarks import process
from benchmarks.cases import DENOISE
from benchmarks.compare import machine
from benchmarks.process import ROOT
from examples.denoising import data
from examples.denoising.settings import SHIPPED

MODEL = DENOISE | {"num_neighbors": 12}
ATTENTION = {"l2": {"l2_dist_attention": True}, "mlp": {"l2_dist_attention": False}}
FRESH = ROOT / "data" / "fresh_chains.pkl"

Run = dict[str, float]
"""The last evaluation of one training run."""


def fresh_chains() -> list[Any]:
    """The chains on which nothing was chosen."""
    with redirect_stdout(io.StringIO()):  # sidechainnet prints where it loaded from
        return data.sidechainnet.load(local_scn_path=str(FRESH)).get_protein_list_by_split_name("test")


def crops(path: Path, train: int, measured: int) -> None:
    """Write crops of 64 residues: many to train on; some of other chains with noise, to choose by and to report."""
    splits = data.load_file(SHIPPED)
    generator = torch.Generator().manual_seed(0)

    def draw(proteins: Sequence[Any], count: int) -> dict[str, torch.Tensor]:
        samples = [data.draw_crop(proteins[i % len(proteins)], generator, 64, 1.0) for i in range(count)]
        return {key: torch.stack([s[key] for s in samples]) for key in ("tokens", "coords", "mask", "noise")}

    drawn = {
        "train": draw(splits.train, train),
        "validation": draw(splits.valid + splits.test, measured),
        "held_out": draw(fresh_chains(), measured),
    }
    torch.save(drawn, path)


def learn(side: Path, job: dict[str, Any]) -> Run:
    """One process of :mod:`benchmarks.learner`."""
    return process.run("benchmarks.learner", side, job)[-1]


def best(runs: dict[float, list[Run]]) -> float:
    """The learning rate with the lowest mean loss on the validation chains."""
    return min(runs, key=lambda lr: mean(run["validation"] for run in runs[lr]))


def compare(job: dict[str, Any], rates: Sequence[float], seeds: int, sides: dict[str, Path]) -> dict[str, Any]:
    """All rates, seeds and sides; then this package for as long as the other takes."""
    runs: dict[str, dict[float, list[Run]]] = {side: {lr: [] for lr in rates} for side in sides}

    def train(side: str, lr: float, seed: int, steps: int) -> Run:
        run = learn(sides[side], job | {"lr": lr, "seed": seed, "steps": steps})
        losses = f"validation {run['validation']:.4f}, held out {run['held_out']:.4f}"
        print(f"{side}, lr {lr:g}, seed {seed}, {steps} steps: {losses}, {run['seconds']:.0f} s", flush=True)
        return run

    for seed in range(seeds):
        for lr in rates:
            for side in sides:
                runs[side][lr].append(train(side, lr, seed, job["steps"]))
    rate = {side: best(runs[side]) for side in sides}
    result: dict[str, Any] = {"model": job["model"], "steps": job["steps"], "runs": runs, "rate": rate}
    result["at_equal_steps"] = {side: [run["held_out"] for run in runs[side][rate[side]]] for side in sides}
    if "peer" in sides:
        pairs = [zip(runs["ours"][lr], runs["peer"][lr], strict=True) for lr in rates]
        result["faster"] = median(peer["seconds"] / ours["seconds"] for pair in pairs for ours, peer in pair)
        steps = round(job["steps"] * result["faster"])
        result["longer"] = [train("ours", rate["ours"], seed, steps) for seed in range(seeds)]
        longer = [run["held_out"] for run in result["longer"]]
        result["at_equal_time"] = {"ours": longer, "peer": result["at_equal_steps"]["peer"]}
    return result


def cell(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.3f} ({min(values):.3f} – {max(values):.3f})"


def report(attention: str, result: dict[str, Any]) -> None:
    """A table, as Markdown."""
    print(f"\n| held-out loss, {attention} | ours | peer | ratio | wanted |\n|---|---|---|---|---|")
    for name, key, wanted in (
        (f"at {result['steps']} steps", "at_equal_steps", 0.95),
        ("at equal time", "at_equal_time", 0.85),
    ):
        losses = result.get(key, {})
        if "peer" in losses:
            ratio = mean(losses["ours"]) / mean(losses["peer"])
            print(f"| {name} | {cell(losses['ours'])} | {cell(losses['peer'])} | {ratio:.3f} | ≤ {wanted} |")
        elif losses:
            print(f"| {name} | {cell(losses['ours'])} | – | – | ≤ {wanted} |")
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--peer", type=Path, help="folder with the published package; without it only ours learns")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=list(ATTENTION), help="which to compare")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3], help="learning rates to try")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--steps", type=int, default=300, help="steps at which the sides are compared")
    parser.add_argument("--smoke", action="store_true", help="a few steps: does it run at all?")
    args = parser.parse_args(arguments)
    if args.smoke:
        args.rates, args.seeds, args.steps = [2e-3], 1, 4

    sides = {"ours": ROOT} | ({"peer": args.peer} if args.peer else {})
    versions = {"ours": equiformer_pytorch.__version__}
    if args.peer:
        versions["peer"] = next(iter(distributions(name="equiformer-pytorch", path=[str(args.peer)]))).version
    about = machine() | {"seed": ", ".join(map(str, range(args.seeds))), "versions": versions}

    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out / "quality.json"
    results = json.loads(out.read_text()) if out.exists() else {}  # of the other attention, if measured before
    with tempfile.TemporaryDirectory() as folder:
        crops_file = Path(folder) / "crops.pt"
        crops(crops_file, *((4, 2) if args.smoke else (1000, 24)))
        for attention in args.attention:
            job = {"data": str(crops_file), "model": MODEL | ATTENTION[attention], "steps": args.steps}
            result = compare(job, args.rates, args.seeds, sides)
            report(attention, result)
            results[attention] = {"machine": about} | result
            out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
