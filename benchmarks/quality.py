"""Learning: ``python -m benchmarks.quality --peer DIR`` trains both sides on real backbones with the same constructor.

Where attention is by MLP ours has `attn_query`, which the published package lacks. Each side takes the learning rate
with the lowest mean loss over the seeds on the chains that `denoise.py` validates and tests on. Reported is the
denoising loss on chains that had no part in training or choosing what is compared (``data/fresh_chains.pkl``;
``examples/backbones`` has most of them, too, for another task): at equal steps, and at equal time, where this package
trains for as many times more steps as it is faster, rounded down. One thread; the sides alternate. DIR is made as
``benchmarks.compare`` says.
"""

from __future__ import annotations

import argparse
import io
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
from benchmarks.kept import KeptRuns, Run
from benchmarks.process import ROOT
from examples.denoising import data
from examples.denoising.settings import SHIPPED

MODEL = DENOISE | {"num_neighbors": 12}
ATTENTION = {"l2": {"l2_dist_attention": True}, "mlp": {"l2_dist_attention": False}}
OWN = {"mlp": {"attn_query": True}}
"""What of this package's attention the published one does not have."""
FRESH = ROOT / "data" / "fresh_chains.pkl"


def fresh_chains() -> list[Any]:
    """The chains that had no part in training or choosing what is compared."""
    with redirect_stdout(io.StringIO()):  # sidechainnet prints where it loaded from
        dataset: Any = data.sidechainnet.load(local_scn_path=str(FRESH))
    return dataset.get_protein_list_by_split_name("test")


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


def trained(kept: KeptRuns, side: Path, crops_file: Path, what: Run) -> Run:
    """One process of :mod:`benchmarks.learner`, or what is kept of it: what was trained (attention, side, lr, seed,
    steps), and what came of it (seconds, validation, held_out)."""
    if found := kept.find(what):
        return found
    model = MODEL | ATTENTION[what["attention"]] | (OWN.get(what["attention"], {}) if what["side"] == "ours" else {})
    run = what | process.run("benchmarks.learner", side, {"data": str(crops_file), "model": model} | what)[-1]
    print(", ".join(f"{k} {round(v, 4) if isinstance(v, float) else v}" for k, v in run.items()), flush=True)
    where = {key: value for key, value in machine().items() if key != "seed"}  # every run has its own
    run |= {"model": model, "machine": where, "version": version_of(side)}
    kept.add(run)
    return run


def version_of(side: Path) -> str:
    """Of the package in a folder."""
    if side == ROOT:
        return equiformer_pytorch.__version__
    return next(iter(distributions(name="equiformer-pytorch", path=[str(side)]))).version


def best(runs: Sequence[Run]) -> float:
    """The learning rate with the lowest mean loss on the validation chains."""
    rates = {run["lr"] for run in runs}
    return min(rates, key=lambda lr: mean(run["validation"] for run in runs if run["lr"] == lr))


def compare(
    kept: KeptRuns, crops_file: Path, sides: dict[str, Path], attention: str, args: argparse.Namespace
) -> dict[str, Any]:
    """All rates, seeds and sides; then this package for as long as the other takes."""

    def run(side: str, lr: float, seed: int, steps: int) -> Run:
        what = {"attention": attention, "side": side, "lr": lr, "seed": seed, "steps": steps}
        return trained(kept, sides[side], crops_file, what)

    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for seed in range(args.seeds):
        for lr in args.rates:
            for side in sides:
                runs[side].append(run(side, lr, seed, args.steps))
    rate = {side: best(runs[side]) for side in sides}
    losses = {side: [run["held_out"] for run in runs[side] if run["lr"] == rate[side]] for side in sides}
    compared: dict[str, Any] = {"rate": rate, "equal_steps": losses}
    if "peer" in sides:
        pairs = zip(runs["ours"], runs["peer"], strict=True)
        compared["faster"] = median(peer["seconds"] / ours["seconds"] for ours, peer in pairs)
        steps = args.steps * int(compared["faster"])
        longer = [run("ours", rate["ours"], seed, steps)["held_out"] for seed in range(args.seeds)]
        compared["equal_time"] = {"ours": longer, "peer": losses["peer"]}
    return compared


def cell(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.3f} ({min(values):.3f} – {max(values):.3f})"


def report(attention: str, compared: dict[str, Any]) -> None:
    """A table, as Markdown."""
    print(f"\n| held-out loss, {attention} | ours | peer | ratio | wanted |\n|---|---|---|---|---|")
    for name, wanted in (("equal_steps", 0.95), ("equal_time", 0.85)):
        losses = compared.get(name, {})
        if "peer" in losses:
            ratio = mean(losses["ours"]) / mean(losses["peer"])
            print(f"| {name} | {cell(losses['ours'])} | {cell(losses['peer'])} | {ratio:.3f} | ≤ {wanted} |")
        elif losses:
            print(f"| {name} | {cell(losses['ours'])} | – | – | ≤ {wanted} |")
    print({name: compared[name] for name in ("rate", "faster") if name in compared}, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--peer", type=Path, help="folder with the published package; without it only ours learns")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="where the JSON goes; runs that it holds are kept",
    )
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=list(ATTENTION), help="which to compare")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3], help="learning rates to try")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--steps", type=int, default=300, help="steps at which the sides are compared")
    parser.add_argument("--smoke", action="store_true", help="a few steps: does it run at all?")
    args = parser.parse_args(arguments)
    if args.smoke:
        args.rates, args.seeds, args.steps = [2e-3], 1, 4

    sides = {"ours": ROOT} | ({"peer": args.peer} if args.peer else {})
    args.out.mkdir(parents=True, exist_ok=True)
    kept = KeptRuns(args.out / "quality.json")
    with tempfile.TemporaryDirectory() as folder:
        crops_file = Path(folder) / "crops.pt"
        crops(crops_file, *((4, 2) if args.smoke else (1000, 24)))
        for attention in args.attention:
            report(attention, compare(kept, crops_file, sides, attention, args))


if __name__ == "__main__":
    main()
