"""Forces of molecules: ``python -m benchmarks.forces [--mace-python PATH] [--nequip-python PATH]``.

Four trajectories of GFN2-xTB at 500 K (`examples/potential/data.py`), each with 200 geometries 10 fs apart to train on,
50 that come a picosecond later to validate, and 200 another picosecond later to test. Settings of all sides were chosen
on two of them and frozen; the other two judge. Ours, MACE and NequIP learn for the same processor time of one thread.
Runs that the folder of results holds already are not made again. The other sides are made with

    python -m venv mace && mace/bin/pip install torch==2.13.0 && mace/bin/pip install mace-torch==0.3.16
    python -m venv nequip && nequip/bin/pip install torch==2.13.0 && nequip/bin/pip install nequip==0.19.1
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.aspirin import OURS
from benchmarks.compare import machine
from benchmarks.kept import KeptRuns, Run
from benchmarks.process import ROOT, Place
from examples.potential import data

CHOSEN_ON = (("aspirin", 1), ("vanillin", 0))
JUDGED_ON = (("aspirin", 3), ("phenylalanine", 0))
NEQUIP = {
    "model": {},
    "cutoff": 3.5,
    "batch_size": 5,
    "optimizer": "adam",
    "lr": 0.01,
    "ema": 0.99,
    "energy_weight": 1.0,
}
SIDES: dict[str, dict[str, Any]] = {
    "ours": OURS | {"clock": "cpu_seconds", "curve": False},
    "MACE": {"batch_size": 5, "options": {"r_max": 3.5}},
    "NequIP": NEQUIP,
}
ERRORS = {"force_rmse": "forces, meV/Å", "energy_rmse": "energies, meV/atom"}


def words_of(side: str, job: Run) -> list[str]:
    """What the interpreter of a side is given."""
    if side == "ours":
        return ["-m", "benchmarks.potential_learner", json.dumps(job)]
    return [str(ROOT / "benchmarks" / f"{side.lower()}_forces.py"), json.dumps(job)]


def learn(place: Place, what: Run, files: dict[str, Path]) -> Run:
    """One run: what was trained (side, molecule, trajectory, seed, budget), and what the side printed last (found)."""
    job = SIDES[what["side"]] | {"budget": what["budget"], "seed": what["seed"], "threads": 1}
    done = place.run(*words_of(what["side"], job | {split: str(path.resolve()) for split, path in files.items()}))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2000:]}")
    about = {"settings": SIDES[what["side"]], "machine": machine(), "versions": place.versions()}
    return what | {"found": json.loads(lines[-1]), "load": round(os.getloadavg()[0], 1), **about}


def report(runs: Sequence[Run]) -> str:
    """A table, as Markdown: the mean of the seeds, and each."""
    lines = [
        "| trajectory | side | seconds | " + " | ".join(f"{title} | each seed" for title in ERRORS.values()) + " |"
    ]
    lines.append("|---" * (3 + 2 * len(ERRORS)) + "|")
    for key in dict.fromkeys((run["molecule"], run["trajectory"], run["budget"]) for run in runs):
        of_key = [run for run in runs if (run["molecule"], run["trajectory"], run["budget"]) == key]
        for side in dict.fromkeys(run["side"] for run in of_key):
            cells = [f"{key[0]} {key[1]}", side, f"{key[2]:.0f}"]
            for name in ERRORS:
                each = [run["found"][name] for run in of_key if run["side"] == side]
                cells += [f"{mean(each):.3g}", ", ".join(f"{one:.3g}" for one in each)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forces", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mace-python", type=Path, help="of the environment with mace-torch")
    parser.add_argument("--nequip-python", type=Path, help="of the environment with nequip")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="only these; by default all that are there")
    parser.add_argument("--chosen", action="store_true", help="the two trajectories that settings were chosen on")
    parser.add_argument("--only", type=int, choices=(0, 1), help="one of the two trajectories, by place")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--budget", type=float, default=620.0, help="seconds of processor time of each run")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    parser.add_argument("--smoke", action="store_true", help="little data, a second: does it run at all?")
    args = parser.parse_args(arguments)

    places = {"ours": Place(Path(sys.executable), None, ())}
    if args.mace_python:
        places["MACE"] = Place(args.mace_python.absolute(), None, ("mace-torch", "e3nn"))
    if args.nequip_python:
        places["NequIP"] = Place(args.nequip_python.absolute(), None, ("nequip", "e3nn"))
    missing = [side for side in args.sides or () if side not in places]
    if missing:
        parser.error(f"where is {missing[0]}? name its environment")
    how: dict[str, Any] = {}
    if args.smoke:
        args.budget, args.seeds = 1.0, 1
        how = {"sizes": data.Sizes(5, 1, 2), "dynamics": data.Dynamics(equilibrate=5.0, every=5.0, gap=5.0)}

    args.out.mkdir(parents=True, exist_ok=True)
    kept = KeptRuns(args.out / "forces.json")
    sets = CHOSEN_ON if args.chosen else JUDGED_ON
    for molecule, trajectory in sets if args.only is None else [sets[args.only]]:
        try:
            files = data.one_molecule(args.data / f"{molecule}-{trajectory}", molecule, seed=trajectory, **how)
        except data.DataError as error:
            raise SystemExit(str(error)) from error
        for seed in range(args.seeds):
            for side in args.sides or places:
                what = {"side": side, "molecule": molecule, "trajectory": trajectory, "seed": seed}
                what |= {"budget": args.budget}
                if kept.find(what):
                    continue
                run = learn(places[side], what, files)
                found = ", ".join(f"{title} {run['found'][name]:.3g}" for name, title in ERRORS.items())
                print(f"{side}, {molecule} {trajectory}, seed {seed}: {found}", flush=True)
                kept.add(run)
    print(report(kept.runs))


if __name__ == "__main__":
    main()
