"""Learning forces: ``python -m benchmarks.aspirin --mace-python PATH`` trains MACE and this package's potential.

200 geometries of aspirin to train on and 200 later ones of the same trajectory to test (GFN2-xTB, Langevin dynamics at
500 K; made by ``examples.potential.data`` where they are missing). Both sides get the same files, two threads and
float32. MACE trains for 40 epochs, ours for as many seconds; evaluations are not counted. Where other programs run,
too, count processor time (``--clock cpu_seconds``). The environment of MACE is made with

    python -m venv mace && mace/bin/pip install torch==2.13.0 && mace/bin/pip install mace-torch==0.3.16

Without ``--mace-python`` the last result of MACE is taken from the folder of results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import machine
from benchmarks.process import ROOT
from examples.potential import data

MODEL = {"cutoff": 3.5, "dim": 32, "num_degrees": 4, "depth": 2, "heads": 4, "dim_head": 8, "radial_basis": "even"}
OURS = {
    "model": MODEL,
    "batch_size": 2,
    "optimizer": "muon",
    "lr": 3e-3,
    "warmup": 20,  # thousandths of the budget
    "ema": 0.99,
    "clip": 1.5,
    "energy_weight": 2.0,
    "forces_weight": 1.0,
}
MACE = {"batch_size": 5, "epochs": 40}
WANTED = {"force_rmse": 65.0, "energy_rmse": 1.0}
CLOCKS = {"seconds": "seconds of training", "cpu_seconds": "seconds of processor time in training"}
TITLES = {"force_rmse": "force RMSE, meV/Å", "energy_rmse": "energy RMSE, meV/atom"}
Curve = list[dict[str, Any]]


def learn(name: str, command: Sequence[str | Path], job: dict[str, Any]) -> Curve:
    """The learning curve that a process prints, one point a line; shown as it comes."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(job["threads"]),
        "PYTHONPATH": str(ROOT),
    }
    with (
        tempfile.TemporaryDirectory() as folder,  # for whatever a side leaves behind
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [*command, json.dumps(job)], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        curve: Curve = []
        for line in process.stdout or ():
            if line.startswith("{"):
                curve.append(json.loads(line))
                print(f"{name}: " + show(curve[-1]), flush=True)
        if process.wait() or not curve:
            said.seek(0)
            raise SystemExit(f"{name} failed:\n{said.read()[-2000:]}")
    return curve


def show(point: dict[str, Any]) -> str:
    """One line."""
    return (
        f"epoch {point['epoch']}, {point['seconds']:.0f} s ({point['cpu_seconds']:.0f} s of processor time), "
        f"{point['force_rmse']:.1f} meV/Å, {point['energy_rmse']:.2f} meV/atom"
    )


def plot(curves: dict[str, Curve], clock: str, path: Path) -> None:
    """Both errors over the time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, (key, title) in zip(axes, TITLES.items(), strict=True):
        for name, curve in curves.items():
            ax.semilogy([point[clock] for point in curve], [point[key] for point in curve], label=name)
        ax.axhline(WANTED[key], color="0.6", linestyle=":", label="wanted")
        ax.set(xlabel=CLOCKS[clock], title=f"test {title}")
        ax.legend()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aspirin", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, default=Path("runs/data/aspirin"), help="folder of the data set")
    parser.add_argument("--mace-python", type=Path, help="of the environment with mace-torch: train MACE, too")
    parser.add_argument("--only-mace", action="store_true", help="do not train ours")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where JSON and plot go")
    parser.add_argument("--epochs", type=int, default=MACE["epochs"], help="of MACE")
    parser.add_argument("--seconds", type=float, help="budget of ours; by default what MACE took")
    parser.add_argument("--clock", choices=CLOCKS, default="seconds", help="what the budget is counted in")
    parser.add_argument("--threads", type=int, default=2, help="of both")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--smoke", action="store_true", help="little data, one epoch, seconds: does it run at all?")
    args = parser.parse_args(arguments)
    if args.only_mace and args.mace_python is None:
        parser.error("--only-mace needs --mace-python")

    how = {}
    if args.smoke:
        args.epochs, args.seconds, args.threads = 1, 3.0, 1
        how = {"sizes": data.Sizes(5, 1, 2), "dynamics": data.Dynamics(equilibrate=5.0, every=5.0, gap=5.0)}
    try:
        files = data.aspirin(args.data, **how)
    except data.DataError as error:
        raise SystemExit(str(error)) from error
    common = {split: str(path.resolve()) for split, path in files.items()}
    common |= {"threads": args.threads, "seed": args.seed}
    args.out.mkdir(parents=True, exist_ok=True)

    def train(side: str, command: Sequence[str | Path], job: dict[str, Any]) -> Curve:
        curve = learn(side, command, common | job)
        about = machine() | {"threads": str(args.threads), "load": f"{os.getloadavg()[0]:.1f}"}
        result = {"machine": about, "job": job, "seed": args.seed, "curve": curve}
        (args.out / f"aspirin_{side}.json").write_text(json.dumps(result, indent=1) + "\n")
        return curve

    curves: dict[str, Curve] = {}
    kept = args.out / "aspirin_mace.json"
    if args.mace_python is not None:
        script = ROOT / "benchmarks" / "mace_forces.py"
        curves["mace"] = train("mace", [args.mace_python.absolute(), script], MACE | {"epochs": args.epochs})
    elif kept.exists():
        curves["mace"] = json.loads(kept.read_text())["curve"]
    if not args.only_mace:
        if args.seconds is None and "mace" not in curves:
            parser.error("how long? give --seconds or --mace-python")
        budget = curves["mace"][-1][args.clock] if args.seconds is None else args.seconds
        job = OURS | {"budget": budget, "clock": args.clock}
        curves["ours"] = train("ours", [sys.executable, "-m", "benchmarks.potential_learner"], job)

    print(
        f"\n| aspirin | parameters | {CLOCKS[args.clock]} | " + " | ".join(TITLES.values()) + " |\n" + "|---" * 5 + "|"
    )
    for name, curve in curves.items():
        last = curve[-1]
        print(
            f"| {name} | {last['parameters']} | {last[args.clock]:.0f} | {last['force_rmse']:.1f} "
            f"| {last['energy_rmse']:.2f} |"
        )
    plot(curves, args.clock, args.out / "aspirin.png")


if __name__ == "__main__":
    main()
