"""Writes golden.pt.xz and the folders …_1_2_0/ from a checkout of release 1.2.0; see README.md."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from equiformer_pytorch import Equiformer, EquiformerV2, EquiformerV3, __version__
from equiformer_pytorch.published.scales import Scales
from tests.data.golden_cases import Inputs, all_cases, make
from tests.golden import (
    GOLDEN,
    NOISE,
    PICKLED,
    RUN,
    SAVED,
    Model,
    build,
    deviations,
    evaluate,
    pack_state,
    write_golden,
)
from tests.potential_program import call, make_data

# What is also kept as whole modules, and as files of `save`.
TINIES = ("tiny-l2", "tiny-mlp", "tiny-reversible")
FILES = ("potential-tiny", "v2-tiny", "v3-tiny", "v3-gradient-tiny")


def checked(name: str, kind: str, model: Model, inputs: Inputs) -> dict[str, Any]:
    """What comes of a call; ValueError where next to nothing comes, or where rounding decides what comes."""
    found = evaluate(kind, model, inputs)
    for output, value in found["outputs"].items():
        if value.is_floating_point() and 0 < value.abs().max() < NOISE:
            raise ValueError(f"{name}: {output} is noise")
    position = "coors" if "coors" in inputs else "pos"
    nudged = {**inputs, position: inputs[position] * (1 + 4e-16)}
    # 1.2.0 beside itself, rounded otherwise: what it deviates by a rewrite may, too.
    worst = max(deviations(evaluate(kind, model, nudged), found).items(), key=lambda item: item[1])
    if worst[1] > 3e-11:
        raise ValueError(f"{name}: rounding moves {worst[0]} by {worst[1]:.1e}")
    return found


def train() -> None:
    """A run of the program of potentials that was stopped after its first step, and the metrics of a whole one."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        Path("data").mkdir()
        make_data(Path("data"))
        options = ["--data", "data", "--dim", "3", "--num-degrees=2", "--depth=1", "--heads=1", "--batch-size=2"]
        for name, more in (("whole", []), ("parts", ["--max-minutes=1e-9"])):
            assert call(*options, "--steps=6", "--warmup=2", "--name", name, *more) == 0
        for run, file, kept in (
            ("parts", "checkpoint.pt", "checkpoint.pt"),
            ("parts", "metrics.csv", "metrics.csv"),
            ("whole", "metrics.csv", "whole.csv"),
        ):
            shutil.copy(Path("runs", run, file), RUN / kept)
        os.chdir(here)


def main() -> None:
    """Evaluate all cases and write what came of them."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if __version__ != "1.2.0" or not Path("equiformer_pytorch/graph.py").exists():
        raise SystemExit("run this in a checkout of 1.2.0; see README.md")
    golden: dict[str, dict[str, Any]] = {}
    for folder in (PICKLED, SAVED, RUN):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name, (kind, options, inputs) in all_cases().items():
        model = make(kind, options)
        case = {"kind": kind, "config": options, "state": pack_state(model), "inputs": inputs}
        golden[name] = case | checked(name, kind, build(case), inputs)
        if name in TINIES + FILES:
            torch.save(model, PICKLED / f"{name}.pt")
        if name in FILES and not isinstance(model, Equiformer):
            if isinstance(model, EquiformerV2 | EquiformerV3):
                energies = torch.linspace(-9, 9, 20, dtype=torch.float64)
                model.scales = Scales({"energy": (0.5, 2.0), "forces": (0.0, 2.0)}, energies)
                golden[name]["predicted"] = {key: x.detach() for key, x in model.predict(**inputs).items()}
            model.save(SAVED / f"{name}.pt")
    write_golden(golden)
    train()
    print(f"{len(golden)} cases, {GOLDEN.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
