"""New backbones: noise turned into chains step by step, freely or around what is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equiformer_pytorch.training.samples import generator_for, seed_for
from examples.backbones.geometry import Frames
from examples.backbones.guidance import relax
from examples.backbones.network import OPEN, BackboneNetwork, Residues
from examples.backbones.process import HIGHEST, KNOWN, LOWEST, add_noise, step_back
from examples.backbones.rotations import random_rotations

RHO = 5.0


@dataclass(frozen=True)
class Plan:
    """How the noise is taken away."""

    steps: int = 60
    """Evaluations of the network."""
    heat: float = 1.0
    """Of the fresh noise of each step, see :func:`step_back`."""
    cold: float = 0.2
    """The same below `cold_below`, where noise blurs what is decided already."""
    cold_below: float = 8.0
    """Å."""
    guided_below: float = 3.0
    """Å, noise below which estimates are relaxed; 0: never."""
    closed_below: float = 1.0
    """Å, noise below which relaxing also closes peptide bonds."""
    rounds: int = 10
    """Of relaxing an estimate, and ten times as many of the last one."""

    def levels(self, highest: float) -> list[float]:
        """From the highest noise to the lowest, Å, closer where it is low (Karras et al. 2022, equation 5, ρ = 5)."""
        ramp = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        first, last = highest ** (1 / RHO), LOWEST ** (1 / RHO)
        return ((first + ramp * (last - first)) ** RHO).tolist()


@dataclass(frozen=True)
class Task:
    """One backbone to be made."""

    length: int
    seed: int
    known: Tensor | None = None
    """(length,) residues that are given, bool."""
    frames: Frames | None = None
    """Of all residues, where some are given, or where the noise starts from."""
    start: float = HIGHEST
    """Å of noise that it starts with: less than the highest makes variations of `frames`."""
    structure: Tensor | None = None
    """(length,) places in `STRUCTURES`, or `OPEN`."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length must be at least 2 residues, got {self.length}")
        if self.frames is None and (self.known is not None or self.start < HIGHEST):
            raise ValueError("frames is missing: known or start needs frames of all residues")
        if self.start <= LOWEST:
            raise ValueError(f"start must be above {LOWEST} Å, the lowest noise, got {self.start}")
        for name in ("known", "structure"):
            value = getattr(self, name)
            if value is not None and value.shape != (self.length,):
                raise ValueError(f"{name} must have the shape ({self.length},), got {tuple(value.shape)}")

    def begin(self, generator: torch.Generator) -> Frames:
        """Noise; about the middle of what is known, or of the frames that it starts from."""
        known = self.known if self.known is not None else torch.zeros(self.length, dtype=torch.bool)
        clean = self.frames or Frames(random_rotations(self.length, generator), torch.zeros(self.length, 3))
        middle = clean.origin[known if known.any() else ~known].mean(0)
        clean = Frames(clean.rotation, clean.origin - middle)
        level = torch.full((self.length,), self.start)
        one_chain = torch.zeros(self.length, dtype=torch.long)
        return clean.where(known, add_noise(clean, level, one_chain, ~known.any()[None], generator))


def sample(network: BackboneNetwork, tasks: Sequence[Task], plan: Plan) -> list[Frames]:
    """The backbones of the tasks, computed together; each is what it would be alone, up to rounding."""
    *_, last = trajectory(network, tasks, plan)
    return last


@torch.no_grad()
def trajectory(network: BackboneNetwork, tasks: Sequence[Task], plan: Plan) -> Iterator[list[Frames]]:
    """What the network makes of the noise at each step; the last of these are the backbones.

    Raises:
        ValueError: if there is no task, or they start with different noise.
    """
    starts = {task.start for task in tasks}
    if len(starts) != 1:
        raise ValueError(f"tasks must be at least one, and start with the same noise, got {sorted(starts)}")
    generators = [generator_for("sample", task.seed) for task in tasks]
    sizes = [task.length for task in tasks]
    residues = _residues(tasks)
    given = _joined([task.begin(generator) for task, generator in zip(tasks, generators, strict=True)])
    levels = plan.levels(starts.pop())
    noisy, before = given, None
    for number, level in enumerate(levels):
        last = number == len(levels) - 1
        sigma = torch.full((len(residues.batch),), level).masked_fill(residues.known, KNOWN)
        seeds = [seed_for("edges", task.seed, number) for task in tasks]
        before = clean = network(noisy, sigma, residues, before, seeds).frames
        if level < plan.guided_below:
            rounds = plan.rounds * (10 if last else 1)
            clean = relax(clean, residues, closed=level < plan.closed_below, rounds=rounds)
        estimates = _split(clean, sizes)
        yield estimates
        if not last:
            heat = plan.heat if level > plan.cold_below else plan.cold
            states = zip(_split(noisy, sizes), estimates, generators, strict=True)
            moved = [step_back(x, c, level, levels[number + 1], heat, generator) for x, c, generator in states]
            noisy = given.where(residues.known, _joined(moved))


def _residues(tasks: Sequence[Task]) -> Residues:
    """What is known of the residues of all tasks."""
    sizes = torch.tensor([task.length for task in tasks])
    places = [torch.arange(task.length) for task in tasks]
    none = [torch.zeros(task.length, dtype=torch.bool) for task in tasks]
    whatever = [torch.full((task.length,), OPEN) for task in tasks]
    return Residues(
        batch=torch.arange(len(tasks)).repeat_interleave(sizes),
        known=torch.cat([o if t.known is None else t.known for t, o in zip(tasks, none, strict=True)]),
        structure=torch.cat([o if t.structure is None else t.structure for t, o in zip(tasks, whatever, strict=True)]),
        ends=torch.cat([torch.stack((place, place.flip(0)), -1) for place in places]),
    )


def _joined(frames: Sequence[Frames]) -> Frames:
    return Frames(torch.cat([f.rotation for f in frames]), torch.cat([f.origin for f in frames]))


def _split(frames: Frames, sizes: Sequence[int]) -> list[Frames]:
    return [Frames(*pair) for pair in zip(frames.rotation.split(sizes), frames.origin.split(sizes), strict=True)]
