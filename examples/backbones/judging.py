"""What `generate_backbones report` does: many backbones, or those of a folder, measured beside natural ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from equiformer_pytorch.training.checkpoint import CheckpointError
from examples.backbones.chains import Chains, load_chains
from examples.backbones.making import generate, load_network
from examples.backbones.measures.report import SAMPLES, report
from examples.backbones.requests import RequestError, new_folder
from examples.backbones.sampling import Plan, Task
from examples.backbones.settings import SHORTEST, ReportSettings
from examples.backbones.structures import StructureError, read_chain
from examples.backbones.trials import PIECE, Trials, trials

SETUP_ERRORS = (RequestError, StructureError, CheckpointError, OSError)


def judge(settings: ReportSettings) -> None:
    """Writes the report to a new folder and prints its table.

    Raises:
        RequestError, StructureError, CheckpointError, OSError: for what the user can mend.
    """
    with new_folder(settings.out) as out:
        chains = load_chains().compact()
        if settings.samples:
            backbones, unguided, asked = given(Path(settings.samples)), [], {}
        else:
            backbones, unguided, asked = sampled(settings, chains)
    table = report(backbones, chains, out, unguided=unguided, asked=asked)
    print(json.dumps(table[SAMPLES], indent=1))
    print(f"{len(backbones)} backbones judged: {out / 'report.md'}")


def given(folder: Path) -> list[Tensor]:
    """The backbones of a folder's PDB files."""
    paths = [path for path in sorted(folder.glob("*.pdb")) if not path.stem.endswith("-trajectory")]
    if not paths:
        raise RequestError(f"{folder} has no PDB files")
    found = [read_chain(path).coords for path in paths]
    for path, coords in zip(paths, found, strict=True):
        if len(coords) < SHORTEST:
            raise RequestError(f"{path} has {len(coords)} residues, {SHORTEST} are the least")
    return found


def sampled(settings: ReportSettings, chains: Chains) -> tuple[list[Tensor], list[Tensor], Trials]:
    """`count` backbones of each length and seed, fewer without guidance, and what comes of requests."""
    held_out = [chain for chain in (*chains.valid, *chains.test) if len(chain) >= PIECE][: settings.requests]
    if len(held_out) == 1:
        raise RequestError("--requests must be 0, or 2 or more, which are compared with each other; got 1")
    network = load_network(settings.model)
    seeds = [seed * settings.count + number for seed in settings.seeds for number in range(settings.count)]
    plan = Plan(steps=settings.steps, guided_below=settings.guided_below)

    def make(tasks: Sequence[Task], plan: Plan = plan) -> list[Tensor]:
        return [one.coords for one in generate(network, tasks, plan, settings.at_once)]

    free = make([Task(length, seed) for length in settings.lengths for seed in seeds])
    tasks = [Task(length, seed) for length in settings.lengths for seed in seeds[: settings.unguided]]
    unguided = make(tasks, Plan(steps=settings.steps, guided_below=0)) if tasks else []
    return free, unguided, trials(make, held_out) if held_out else {}
