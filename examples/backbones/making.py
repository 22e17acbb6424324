"""What `generate_backbones sample` does: backbones as PDB files, a picture, and a line about each."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from equiformer_pytorch.training.checkpoint import CheckpointError
from equiformer_pytorch.training.samples import seed_for
from examples.backbones import requests, saved
from examples.backbones.geometry import atoms_of
from examples.backbones.measures import designs, local
from examples.backbones.measures.compare import rmsd
from examples.backbones.measures.requested import motif_found
from examples.backbones.measures.secondary import secondary_structure
from examples.backbones.network import OPEN, STRUCTURES, BackboneNetwork
from examples.backbones.pictures import gallery, write_gif
from examples.backbones.sampling import Plan, Task, sample, trajectory
from examples.backbones.settings import SampleSettings
from examples.backbones.structures import StructureError, pdb_text

SETUP_ERRORS = (requests.RequestError, StructureError, CheckpointError, OSError)
MOST_PICTURES = 8
"""Of one length, in the gallery."""
TRIES = 4
"""At most, of a backbone about a motif: a chain that was led through the motif cannot be moved off it."""


class Made(NamedTuple):
    """A backbone, and what it was made from."""

    coords: Tensor
    """(residues, 4, 3) Å."""
    task: Task
    """As asked, but for the seed, where other noise had to be tried."""
    tries: int


def make(settings: SampleSettings) -> None:
    """Makes what is asked for, in a new folder.

    Raises:
        RequestError, StructureError, CheckpointError, OSError: for what the user can mend.
    """
    with requests.new_folder(settings.out) as out:
        if settings.sequences and not designs.installed():
            raise requests.RequestError(f"--sequences needs ProteinMPNN: {designs.INSTALL}")
        tasks = requests.tasks_of(settings)
        network = load_network(settings.model)
        plan = Plan(steps=settings.steps, guided_below=settings.guided_below)
        start = time.process_time()
        made = generate(network, tasks, plan, settings.at_once)
        backbones = [one.coords for one in made]
        seconds = (time.process_time() - start) / len(tasks)
    rows = []
    for task, (coords, _, tries) in zip(tasks, made, strict=True):
        name = name_of(task)
        (out / f"{name}.pdb").write_text(pdb_text([coords], title=f"generated backbone, seed {task.seed}"))
        rows.append({"name": name} | described(task, coords) | ({"tries": tries} if task.known is not None else {}))
        if settings.sequences:
            (designed,) = designs.design([coords], settings.sequences, task.seed)
            (out / f"{name}.fasta").write_text(designs.fasta(name, designed))
    with (out / "backbones.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    by_length: dict[str, Sequence[Tensor]] = {
        f"{length} residues": [x for x in backbones if len(x) == length][:MOST_PICTURES]
        for length in sorted({len(x) for x in backbones})
    }
    gallery(by_length, out / "gallery.png")
    if settings.trajectory:
        write_way(network, made[0].task, plan, out / name_of(tasks[0]))
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(f"{len(rows)} backbones in {out}, {seconds:.1f} s of processor time each; see {out / 'gallery.png'}")


def load_network(path: str) -> BackboneNetwork:
    """Of a path, or the one that is shipped."""
    return saved.load(Path(path) if path else saved.SHIPPED)


def generate(network: BackboneNetwork, tasks: Sequence[Task], plan: Plan, at_once: int) -> list[Made]:
    """Backbones of the tasks, in their order. With guidance, one about a motif in which a new residue clashes is made
    again from other noise, `TRIES` times at most."""
    found: dict[int, Made] = {}
    places, tried = list(range(len(tasks))), list(tasks)
    for tries in range(1, TRIES + 1):
        for place, task, coords in zip(places, tried, _sampled(network, tried, plan, at_once), strict=True):
            found[place] = Made(coords, task, tries)
        places = [place for place in places if plan.guided_below and _meets_its_motif(found[place])]
        if not places:
            break
        tried = [replace(tasks[place], seed=seed_for("again", tasks[place].seed, tries + 1)) for place in places]
    return [found[place] for place in range(len(tasks))]


def _sampled(network: BackboneNetwork, tasks: Sequence[Task], plan: Plan, at_once: int) -> list[Tensor]:
    found: list[Tensor] = []
    with tqdm(total=len(tasks), unit="backbone", disable=None) as bar:
        for batch in requests.in_batches(tasks, at_once):
            found += [atoms_of(frames) for frames in sample(network, batch, plan)]
            bar.update(len(batch))
    return found


def _meets_its_motif(made: Made) -> bool:
    known = made.task.known
    if known is None:
        return False
    return local.ca_clashes(made.coords, ~known) + local.atom_clashes(made.coords, ~known) > 0


def name_of(task: Task) -> str:
    """What its files are called."""
    return f"{task.length}-{task.seed:03d}"


def described(task: Task, coords: Tensor) -> dict[str, object]:
    """What is said of each backbone where it is made: its shape, clashes, and whether it is what was asked for."""
    letters = secondary_structure(coords)
    about: dict[str, object] = {
        "helix": round(float((letters == "H").mean()), 2),
        "strand": round(float((letters == "E").mean()), 2),
        "ca_clashes": round(local.ca_clashes(coords), 2),
        "atom_clashes": round(local.atom_clashes(coords), 2),
    }
    if task.frames is not None:
        given = atoms_of(task.frames)
        if task.known is None:
            about["rmsd"] = round(rmsd(coords, given), 2)
        else:
            found = motif_found(coords, given[task.known], task.known)
            about["motif_rmsd"] = round(found.rmsd, 2)
            about["longest_junction"] = round(found.junction, 2)
    if task.structure is not None and bool((task.structure != OPEN).any()):
        asked = task.structure != OPEN
        tokens = torch.tensor([STRUCTURES.index(letter) for letter in letters])
        about["as_asked"] = round(float((tokens == task.structure)[asked].float().mean()), 2)
    return about


def write_way(network: BackboneNetwork, task: Task, plan: Plan, stem: Path) -> None:
    """The estimates of one backbone from noise to the last."""
    way = [atoms_of(frames) for (frames,) in trajectory(network, [task], plan)]
    stem.with_name(f"{stem.name}-trajectory.pdb").write_text(pdb_text(way, title="from noise to a backbone"))
    captions = [f"noise {level:.1f} Å" for level in plan.levels(task.start)]
    write_gif(way, stem.with_name(f"{stem.name}-trajectory.gif"), captions)
