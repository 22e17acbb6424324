"""What `generate_backbones report` does: many backbones, or those of a folder, measured beside natural ones."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from equiformer_pytorch.training.checkpoint import CheckpointError
from examples.backbones.chains import load_chains
from examples.backbones.making import generate, load_network
from examples.backbones.measures.report import SAMPLES, report
from examples.backbones.requests import RequestError
from examples.backbones.sampling import Plan, Task
from examples.backbones.settings import ReportSettings
from examples.backbones.structures import StructureError, read_chain

SETUP_ERRORS = (RequestError, StructureError, CheckpointError, OSError)


def judge(settings: ReportSettings) -> None:
    """Writes the report to a new folder and prints its table.

    Raises:
        RequestError, StructureError, CheckpointError, OSError: for what the user can mend.
    """
    out = Path(settings.out)
    if out.exists():
        raise RequestError(f"{out} exists already: choose another --out")
    if settings.samples:
        paths = sorted(Path(settings.samples).glob("*.pdb"))
        paths = [path for path in paths if not path.stem.endswith("-trajectory")]
        if not paths:
            raise RequestError(f"{settings.samples} has no PDB files")
        backbones = [read_chain(path).coords for path in paths]
    else:
        backbones = sampled(settings)
    table = report(backbones, load_chains().compact(), out)
    print(json.dumps(table[SAMPLES], indent=1))
    print(f"{len(backbones)} backbones judged: {out / 'report.md'}")


def sampled(settings: ReportSettings) -> list[Tensor]:
    """`count` backbones of each length and seed."""
    seeds = [seed * settings.count + number for seed in settings.seeds for number in range(settings.count)]
    tasks = [Task(length, seed) for length in settings.lengths for seed in seeds]
    plan = Plan(steps=settings.steps, guided_below=settings.guided_below)
    return generate(load_network(settings.model), tasks, plan, settings.at_once)
