"""New backbones: noise turned into chains step by step, freely or around what is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equiformer_pytorch.training.samples import generator_for, seed_for
from examples.backbones.geometry import Frames
from examples.backbones.guidance import relax
from examples.backbones.network import OPEN, BackboneNetwork, Residues
from examples.backbones.process import HIGHEST, KNOWN, LOWEST, add_noise, step_back
from examples.backbones.rotations import UNIFORM, random_rotations


@dataclass(frozen=True)
class Plan:
    """How the noise is taken away."""

    steps: int = 60
    """Evaluations of the network."""
    churn: float = 1.0
    """Fresh noise of each step, see :func:`step_back`: 1 is ancestral."""
    cold: float = 0.4
    """The same below `cold_below`, where it sharpens what is there already."""
    cold_below: float = 3.0
    """Å."""
    guided_below: float = 3.0
    """Å, the noise level below which estimates are relaxed: no clashes, bonds closed. 0: never."""

    def levels(self, highest: float = HIGHEST) -> list[float]:
        """From the highest noise down to the lowest, and 0: as Karras et al. (2022), section 3, with ρ = 5."""
        ramp = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        rho = 5.0
        found = (highest ** (1 / rho) + ramp * (LOWEST ** (1 / rho) - highest ** (1 / rho))) ** rho
        return [*found.tolist(), 0.0]


@dataclass(frozen=True)
class Task:
    """One backbone to be made."""

    length: int
    seed: int
    known: Tensor | None = None
    """(length,) residues that are given, bool."""
    frames: Frames | None = None
    """Of all residues, where some are given or where the noise starts from."""
    start: float = HIGHEST
    """Å, the noise that it starts with: less than the highest makes variations of `frames`."""
    structure: Tensor | None = None
    """(length,) helix 0, strand 1, other 2, open 3."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length must be at least 2 residues, got {self.length}")
        if self.frames is None and (self.known is not None or self.start < HIGHEST):
            raise ValueError("frames are missing: residues are known, or the noise starts from them")


def sample(network: BackboneNetwork, tasks: Sequence[Task], plan: Plan) -> list[Frames]:
    """The backbones of the tasks, together; each is what it would be alone, up to rounding."""
    found = None
    for found in trajectory(network, tasks, plan):
        pass
    assert found is not None
    return found


@torch.no_grad()
def trajectory(network: BackboneNetwork, tasks: Sequence[Task], plan: Plan) -> Iterator[list[Frames]]:
    """What the network makes of the noise after each step, the last of which are the backbones."""
    generators = [generator_for("sample", task.seed) for task in tasks]
    sizes = [task.length for task in tasks]
    batch = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(sizes))
    known = torch.cat([torch.zeros(t.length, dtype=torch.bool) if t.known is None else t.known for t in tasks])
    structure = torch.cat([torch.full((t.length,), OPEN) if t.structure is None else t.structure for t in tasks])
    place = torch.cat([torch.arange(size) for size in sizes])
    ends = torch.stack((place, torch.cat([size - 1 - torch.arange(size) for size in sizes])), -1)
    residues = Residues(batch, known, structure, ends)
    highest = max(task.start for task in tasks)
    if any(task.start != highest for task in tasks):
        raise ValueError(f"start must be the same for all tasks of a call, got {sorted({t.start for t in tasks})}")
    levels = plan.levels(highest)
    states = [_begin(task, generator) for task, generator in zip(tasks, generators, strict=True)]
    given = _joined(states)
    noisy, before = given, None
    for number, (level, lower) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        sigma = torch.full((len(batch),), level).masked_fill(known, KNOWN)
        seeds = [seed_for("edges", task.seed, number) for task in tasks]
        clean = network(noisy, sigma, residues, before, seeds).frames
        before = clean
        if level < plan.guided_below:
            clean = relax(clean, residues, closed=level < 1.0)
        yield _split(clean, sizes)
        churn = plan.churn if level > plan.cold_below else plan.cold
        moved = [
            step_back(x, c, level, lower, churn, generator)
            for x, c, generator in zip(_split(noisy, sizes), _split(clean, sizes), generators, strict=True)
        ]
        noisy = given.where(known, _joined(moved))


def _begin(task: Task, generator: torch.Generator) -> Frames:
    """Noise; about the middle of what is known, or of the chain that the noise starts from."""
    zero = torch.zeros(task.length, dtype=torch.long)
    known = torch.zeros(task.length, dtype=torch.bool) if task.known is None else task.known
    if task.frames is None:
        clean = Frames(random_rotations(task.length, generator), torch.zeros(task.length, 3))
    else:
        about = task.frames.origin[known if known.any() else ~known].mean(0)
        clean = Frames(task.frames.rotation, task.frames.origin - about)
    free = ~known.any()[None]
    noisy = add_noise(clean, torch.full((task.length,), task.start), zero, free, generator)
    return clean.where(known, noisy)


def _joined(frames: Sequence[Frames]) -> Frames:
    return Frames(torch.cat([f.rotation for f in frames]), torch.cat([f.origin for f in frames]))


def _split(frames: Frames, sizes: Sequence[int]) -> list[Frames]:
    return [Frames(*pair) for pair in zip(frames.rotation.split(sizes), frames.origin.split(sizes), strict=True)]
