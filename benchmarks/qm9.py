"""Properties of molecules: ``python -m benchmarks.qm9 [--painn-python PATH] [--mace-python PATH] [--peer DIR] …``.

This package's potential (L2 and MLP attention), PaiNN, MACE, the official Equiformer and the published package 0.5.4
learn properties of QM9 from the same molecules for as many steps as each makes in the same processor time of one
thread, with the same schedule and averaging of weights; ours with Muon, the others with AdamW. How long a step takes is
measured first, in turns: a machine is faster at one time than at another, and not for all sides alike. Each side has
the settings that it documents, and the learning rate with the lowest error on the validation molecules of the first
property; no choice is made by test molecules. Runs that the folder of results holds already are not made again. The
sides are made with

    pip install --no-deps qm9pack==1.0.3
    python -m venv painn && painn/bin/pip install torch==2.13.0 numpy
    painn/bin/pip install --no-deps schnetpack==2.1.1
    python -m venv mace && mace/bin/pip install torch==2.13.0 && mace/bin/pip install mace-torch==0.3.16
    git clone https://github.com/atomicarchitects/equiformer official
    git -C official checkout 64cb7866f48b9aa156e74a9d6a2ef2663b367437
    python -m venv e3nn && e3nn/bin/pip install torch==2.13.0 e3nn==0.4.4
    pip install --target DIR --no-deps equiformer-pytorch==0.5.4 taylor-series-linear-attention \
        rotary-embedding-torch opt-einsum filelock

The official Equiformer is ``--official official --official-python e3nn/bin/python`` (MACE's environment will do, too).
Its batches (128; of energies 64), its schedule, and its runs without averaging and clipping give way to what all have.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.compare import machine
from benchmarks.kept import KeptRuns, Run
from benchmarks.process import ROOT, Place
from benchmarks.qm9_report import plot, report
from equiformer_pytorch.graph.periodic import radius_graph
from examples.qm9 import data, frames
from examples.qm9.properties import PROPERTIES, SPECIES

ROUNDS = 5
"""Of measuring how long a step takes."""
OURS = {"dim": 32, "num_degrees": 3, "depth": 2, "heads": 4, "dim_head": 8, "radial_basis": "even"}
# Cutoffs are in Å: of the others what they document, of ours what was chosen on validation molecules, and PaiNN with
# that, too (docs/accuracy.md).
COMMON = {
    "cutoff": 5.0,
    "batch_size": 16,
    "ema": 0.99,
    "clip": 10.0,
    "loss": "l2",
    "warmup": 0.02,
    "weight_decay": 0.0,
    "optimizer": "adamw",
}
NEAR = 3.2
OWN = COMMON | {"side": "ours", "cutoff": NEAR, "optimizer": "muon", "rates": [3e-3, 6e-3]}
PAINN = COMMON | {"side": "painn", "model": {"n_atom_basis": 128, "n_interactions": 3}, "rates": [5e-4, 1e-3]}
# As its scripts have it, for most properties and for energies; rates: the one there, and a higher one for short runs.
OFFICIAL = COMMON | {"side": "official", "loss": "l1"}
SETTINGS: dict[str, dict[str, Any]] = {
    "ours, MLP": OWN | {"model": OURS | {"l2_dist_attention": False}},
    "ours, L2": OWN | {"model": OURS | {"l2_dist_attention": True}},
    "PaiNN": PAINN,
    "PaiNN, near": PAINN | {"cutoff": NEAR},
    "MACE": COMMON
    | {
        "side": "mace",
        "model": {"max_ell": 3, "num_interactions": 2, "hidden_irreps": "32x0e + 32x1o", "correlation": 3},
        "loss": "huber",
        "rates": [5e-3, 1e-2],
    },
    "Equiformer": OFFICIAL
    | {
        "model": {"name": "graph_attention_transformer_nonlinear_l2", "num_basis": 128},
        "weight_decay": 5e-3,
        "rates": [5e-4, 1e-3],
    },
    "Equiformer, energies": OFFICIAL
    | {
        "model": {"name": "graph_attention_transformer_nonlinear_bessel_l2_drop00", "num_basis": 8},
        "rates": [1.5e-4, 5e-4],
    },
    "0.5.4": COMMON
    | {
        "side": "published",
        "model": {"dim": 32, "num_degrees": 2, "depth": 2, "heads": 4, "dim_head": 8, "l2_dist_attention": False},
        "rates": [1e-3, 2e-3],
    },
}
ENERGIES = {"u0", "u", "h", "g"}
# MACE, 0.5.4 and the official Equiformer give no features of degree 2, or no read-out of such.
LEFT_OUT = {
    "MACE": {"tensor"},
    "Equiformer": {"tensor"},
    "Equiformer, energies": set(PROPERTIES) - ENERGIES,
    "0.5.4": {"tensor"},
}


def write_molecules(
    molecules: data.Molecules, name: str, train: int, sizes: tuple[int, int], cutoff: float, path: Path
) -> None:
    """Molecules to train on, to validate and to test, with graphs and targets, for :mod:`benchmarks.qm9_learner`."""
    kind = PROPERTIES[name].kind
    split = data.split(len(molecules), train, 0)
    places = [*split.train, *split.valid[: sizes[0]], *split.test[: sizes[1]]]
    atoms = [molecules.atoms(place) for place in places]
    positions = [molecules.pos[one] - molecules.pos[one].mean(0) for one in atoms]
    graphs = [radius_graph(pos, cutoff)[0] for pos in positions]
    values, composition = molecules.values(name)[places], molecules.composition()[places]
    wanted = values[:, [0, 2, 5]].sum(1, keepdim=True) if kind == "tensor" else values
    rows = torch.ones_like(composition[:, :1]) if kind == "mean" else composition
    left = wanted - rows @ torch.linalg.lstsq(rows[:train], wanted[:train], driver="gelsd").solution
    if kind == "tensor":
        unit = torch.eye(3, dtype=values.dtype)
        tensors = frames.candidates(values, frames.charge_axes(molecules)[places])
        left = (tensors - unit * ((wanted - left) / 3)[:, :, None, None]).flatten(2)
    scale = left[:train].square().mean().sqrt()
    counts = [torch.tensor([0, *(len(pos) for pos in positions)]), torch.tensor([0, *(x.shape[1] for x in graphs)])]
    content = {
        "kind": kind,
        "species": list(SPECIES),
        "cutoff": cutoff,
        "numbers": torch.cat([molecules.numbers[one] for one in atoms]),
        "pos": torch.cat(positions).float(),
        "starts": counts[0].cumsum(0),
        "edges": torch.cat(graphs, dim=1),
        "edge_starts": counts[1].cumsum(0),
        "target": (left / scale).float(),
        "scale": float(scale),
        "train": torch.arange(train),
        "valid": torch.arange(train, train + sizes[0]),
        "test": torch.arange(train + sizes[0], len(places)),
    }
    torch.save(content, path)


def asked_of(side: str, file: Path, lr: float, seed: int) -> dict[str, Any]:
    """What :mod:`benchmarks.qm9_learner` needs to know of a side."""
    settings = SETTINGS[side] | {"lr": lr}
    return {"data": str(file), "side": settings["side"], "settings": settings, "seed": seed}


def answered(place: Place, job: dict[str, Any]) -> list[dict[str, Any]]:
    """What one process of :mod:`benchmarks.qm9_learner` prints."""
    done = place.run("-m", "benchmarks.qm9_learner", json.dumps(job))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{job['side']} failed:\n{done.stderr[-2000:]}")
    return lines


def paces(
    kept: KeptRuns, of: str, files: dict[str, Path], places: dict[str, Place], seconds: float
) -> dict[str, float]:
    """Seconds of a step of each side: the median of `ROUNDS`, in which all sides take turns.

    Raises:
        SystemExit: if what is kept lacks a side; what was measured at another time is not comparable.
    """
    what = {"pace": of, "measured_for": seconds, "machine": machine()}
    if found := kept.find(what):
        if missing := files.keys() - found["seconds"].keys():
            lacks = ", ".join(sorted(missing))
            raise SystemExit(
                f"{kept.path} has paces without that of {lacks}, measured at another time: choose another --out"
            )
        return found["seconds"]
    rounds: dict[str, list[float]] = {side: [] for side in files}
    for _ in range(ROUNDS):
        for side, file in files.items():
            job = asked_of(side, file, SETTINGS[side]["rates"][0], 0)
            rounds[side].append(answered(places[side], job | {"pace": seconds})[-1]["seconds"])
    found = {side: median(measured) for side, measured in rounds.items()}
    versions = {side: places[side].versions() for side in files}
    load = round(os.getloadavg()[0], 1)
    kept.add(what | {"seconds": found, "rounds": rounds, "versions": versions, "load": load})
    print(f"{of}: " + ", ".join(f"{side} {1e3 * pace:.0f} ms" for side, pace in found.items()), flush=True)
    return found


def trained(kept: KeptRuns, place: Place, file: Path, what: Run, points: int) -> Run:
    """One process of :mod:`benchmarks.qm9_learner`, or what is kept of it: what was trained (name, property, train,
    budget, steps, seed, lr), and its learning curve."""
    if found := kept.find(what):
        return found
    job = asked_of(what["name"], file, what["lr"], what["seed"])
    curve = answered(place, job | {"steps": what["steps"], "points": points})
    scale = torch.load(file, weights_only=True)["scale"]
    run = what | {"settings": job["settings"], "scale": scale, "curve": curve, "versions": place.versions()}
    print(", ".join(f"{key} {value}" for key, value in what.items()), f"valid {error(run):.4g}", flush=True)
    kept.add(run)
    return run


def error(run: Run, of: str = "valid") -> float:
    """At the end of a run, in the unit of the property."""
    return run["scale"] * mean(run["curve"][-1][of])


def best_rate(kept: KeptRuns, place: Place, file: Path, what: Run, points: int, rates: Sequence[float]) -> float:
    """The learning rate of a side whose run has the lowest error on the validation molecules."""
    tried = {"rate_of": what["name"], "rates": list(rates)} | {
        key: what[key] for key in ("property", "train", "budget")
    }
    if found := kept.find(tried):
        return found["lr"]
    runs = [trained(kept, place, file, what | {"seed": 0, "lr": lr}, points) for lr in rates]
    best = min(runs, key=error)["lr"]
    kept.add(tried | {"lr": best})
    return best


def kind_of(name: str) -> str:
    """Of a property: what takes equally long to learn."""
    return "tensor" if PROPERTIES[name].kind == "tensor" else "numbers"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qm9", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the CSV files of qm9pack, unless it is installed")
    parser.add_argument("--kept", type=Path, default=Path("runs/data/qm9.pt"), help="what was read of installed ones")
    parser.add_argument("--painn-python", type=Path, help="of the environment with schnetpack")
    parser.add_argument("--mace-python", type=Path, help="of the environment with mace-torch")
    parser.add_argument("--official", type=Path, help="folder with a checkout of atomicarchitects/equiformer")
    parser.add_argument("--official-python", type=Path, help="of the environment with e3nn 0.4.4")
    parser.add_argument("--peer", type=Path, help="folder with the published package")
    parser.add_argument("--sides", nargs="+", choices=SETTINGS, help="only these; by default all that are there")
    parser.add_argument("--properties", nargs="+", choices=PROPERTIES, default=["u0", "homo", "alpha", "tensor"])
    parser.add_argument("--train", type=int, nargs="+", default=[1000, 5000], help="molecules to train on")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates to try, by default those of each side")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds of one thread for each run")
    parser.add_argument(
        "--out", type=Path, help="where JSON and plot go (default: benchmarks/results; --smoke: nowhere)"
    )
    parser.add_argument("--smoke", action="store_true", help="few molecules, seconds: does it run at all?")
    args = parser.parse_args(arguments)
    held_out, points = (1000, 2000), 8
    if args.smoke:
        args.train, args.seeds, args.budget, held_out, points = [40], 1, 2.0, (20, 20), 2

    here = Path(sys.executable)
    places = {"ours, MLP": Place(here, None, ()), "ours, L2": Place(here, None, ())}
    if args.painn_python:
        places["PaiNN"] = places["PaiNN, near"] = Place(args.painn_python.absolute(), None, ("schnetpack",))
    if args.mace_python:
        places["MACE"] = Place(args.mace_python.absolute(), None, ("mace-torch", "e3nn"))
    if bool(args.official) != bool(args.official_python):
        parser.error("--official and --official-python go together")
    if args.official:
        place = Place(args.official_python.absolute(), args.official.absolute(), ("e3nn",))
        places["Equiformer"] = places["Equiformer, energies"] = place
    if args.peer:
        places["0.5.4"] = Place(here, args.peer.absolute(), ("equiformer-pytorch",))
    missing = [side for side in args.sides or () if side not in places]
    if missing:
        parser.error(f"where is {missing[0]}? name its environment")
    try:
        molecules = data.load(args.data, args.kept)
    except data.DataError as problem:
        raise SystemExit(str(problem)) from problem

    sides = {side: places[side] for side in args.sides or places}
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or (Path(folder) if args.smoke else ROOT / "benchmarks" / "results")
        out.mkdir(parents=True, exist_ok=True)
        kept = KeptRuns(out / "qm9.json")

        def file_of(name: str, train: int, side: str) -> Path:
            cutoff = SETTINGS[side]["cutoff"]
            file = Path(folder) / f"{name}-{train}-{cutoff}.pt"
            if not file.exists():
                write_molecules(molecules, name, train, held_out, cutoff, file)
            return file

        train, seconds = args.train[0], {}
        given = {side: [name for name in args.properties if name not in LEFT_OUT.get(side, ())] for side in sides}
        for kind in dict.fromkeys(map(kind_of, args.properties)):
            first = {
                side: next((name for name in names if kind_of(name) == kind), None) for side, names in given.items()
            }
            files = {side: file_of(name, train, side) for side, name in first.items() if name}
            seconds[kind] = paces(kept, kind, files, sides, 0.2 if args.smoke else 4.0)

        def run_of(name: str, train: int, side: str) -> Run:
            steps = max(round(args.budget / seconds[kind_of(name)][side]), 1)
            return {"name": side, "property": name, "train": train, "budget": args.budget, "steps": steps}

        rates = {}
        for side, (first, *_) in ((side, names) for side, names in given.items() if names):
            what, file = run_of(first, train, side), file_of(first, train, side)
            rates[side] = best_rate(kept, sides[side], file, what, points, args.rates or SETTINGS[side]["rates"])
        for seed, train in itertools.product(range(args.seeds), args.train):
            for name, side in itertools.product(args.properties, rates):
                if name in given[side]:
                    what = run_of(name, train, side) | {"seed": seed, "lr": rates[side]}
                    trained(kept, sides[side], file_of(name, train, side), what, points)
        runs = [run for run in kept.runs if "curve" in run]
        chosen = [run for run in runs if kept.find({"rate_of": run["name"], "lr": run["lr"], "budget": run["budget"]})]
        print(report(chosen))
        plot(chosen, out / "qm9.png")


if __name__ == "__main__":
    main()
