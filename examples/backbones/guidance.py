"""What every backbone has, whatever the network says: closed peptide bonds, and no two atoms in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.backbones.geometry import C_N, CA_CA, Frames, atoms_of
from examples.backbones.network import Residues
from examples.backbones.rotations import exponential

NEAREST_CA = 3.8
"""Å, nearest CA of residues that are not neighbours. 4.6 would keep strands apart."""
NEAREST_ATOMS = ((2.85, 2.9, 2.9, 2.8), (2.9, 3.1, 3.1, 2.8), (2.9, 3.1, 3.1, 2.8), (2.8, 2.8, 2.8, 2.8))
"""Å, of N, CA, C and O (rows and columns) of residues two or more apart: for each pair 0.1 Å or more above what counts
as a clash. O and N of a hydrogen bond come closest."""
C_CA, CA_N = 2.435, 2.428
"""Å, from C to the next CA and from CA to the next N: what the angles at the peptide bond amount to."""
O_N = 2.25
"""Å, from O to the next N."""
RATE, MOMENTUM = 0.03, 0.9
LONGEST = 5.0
"""Å and radians, of a slope: what is far off moves steadily, not at once."""


def relax(frames: Frames, residues: Residues, *, closed: bool, rounds: int) -> Frames:
    """Frames moved and turned down the slope of a sum of squares (Nesterov's gradient descent): of clashes; and where
    `closed`, of what peptide bonds, their angles and planes are off. Known residues stay."""
    there = torch.cat((residues.batch.new_zeros(1), residues.batch.diff())) == 0
    movable = (~residues.known).to(frames.origin)[:, None]
    pairs = _close_pairs(frames.origin, residues.batch)
    shift, turn = (torch.zeros_like(frames.origin).requires_grad_() for _ in range(2))
    # Turning by an angle moves atoms by about 1.5 Å times as much.
    optimizer = torch.optim.SGD(
        [{"params": [shift], "lr": RATE}, {"params": [turn], "lr": RATE / 2}], momentum=MOMENTUM, nesterov=True
    )
    for _ in range(rounds):
        with torch.enable_grad():
            moved = Frames(frames.rotation @ exponential(turn), frames.origin + shift)
            energy = _energy(atoms_of(moved, there), pairs, there[1:].to(shift) if closed else None)
            slopes = torch.autograd.grad(energy, (shift, turn))
        for variable, slope in zip((shift, turn), slopes, strict=True):
            slope = slope * movable
            variable.grad = slope * (LONGEST / slope.norm(dim=-1, keepdim=True).clamp(min=LONGEST))
        optimizer.step()
    return Frames(frames.rotation @ exponential(turn.detach()), frames.origin + shift.detach())


def _energy(atoms: Tensor, pairs: Tensor, joined: Tensor | None) -> Tensor:
    """Å²; atoms (n, 4, 3) are N, CA, C and O."""
    one, other = atoms[pairs[0]], atoms[pairs[1]]
    alphas = _distance(one[:, 1], other[:, 1])
    every = _distance(one[:, :, None], other[:, None])
    total = (NEAREST_CA - alphas).clamp(min=0).square().sum()
    total = total + (every.new_tensor(NEAREST_ATOMS) - every).clamp(min=0).square().sum()
    if joined is not None:
        here, after = atoms[:-1], atoms[1:]
        for of, to, wanted in ((2, 0, C_N), (2, 1, C_CA), (1, 0, CA_N), (1, 1, CA_CA), (3, 0, O_N)):
            total = total + ((_distance(here[:, of], after[:, to]) - wanted).square() * joined).sum()
    return total


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return ((one - other).square().sum(-1) + 1e-6).sqrt()


def _close_pairs(origin: Tensor, batch: Tensor) -> Tensor:
    """(2, pairs) of residues of one chain, two or more apart, whose CA are within 9 Å."""
    place = torch.arange(len(batch), device=batch.device)
    near = (torch.cdist(origin, origin) < 9) & (batch[:, None] == batch) & (place[:, None] - place >= 2)
    return near.nonzero().T
