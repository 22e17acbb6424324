"""What every backbone has, whatever the network says: closed peptide bonds, and no two atoms in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.backbones.geometry import C_N, CA_CA, Frames, residue
from examples.backbones.network import Residues
from examples.backbones.rotations import exponential

NEAREST_CA = 3.8
"""Å, nearest CA of residues that are not neighbours. 4.6 would keep strands apart."""
NEAREST_ATOMS = 3.0
"""Å, of atoms N, CA and C of residues three or more apart."""
LONGEST = 0.3
"""Å and radians, of one step of one residue."""
C_CA, CA_N = 2.435, 2.428
"""Å, from C to the next CA and from CA to the next N: what the angles at the peptide bond amount to."""


def relax(frames: Frames, residues: Residues, *, closed: bool, rounds: int = 12, step: float = 0.15) -> Frames:
    """Frames moved and turned a little down the slope of a sum of squares: of clashes; and where `closed`, of what peptide
    bonds, their angles and planes are off. Known residues stay."""
    size = len(frames.origin)
    movable = (~residues.known).to(frames.origin)[:, None]
    pairs = _close_pairs(frames.origin, residues.batch)
    joined = (residues.batch[1:] == residues.batch[:-1]).to(frames.origin)
    ideal = residue(frames.origin.dtype, frames.origin.device).expand(size, 3, 3)
    for _ in range(rounds):
        with torch.enable_grad():
            shift, turn = (torch.zeros_like(frames.origin).requires_grad_() for _ in range(2))
            moved = Frames(frames.rotation @ exponential(turn), frames.origin + shift)
            energy = _energy(moved.apply(ideal), pairs, joined if closed else None)
            by_shift, by_turn = torch.autograd.grad(energy, (shift, turn))
        # Turning by an angle moves atoms by 1.5 Å times as much. No step is longer than `LONGEST`.
        by_shift, by_turn = (_shortened(slope * scale) for slope, scale in ((by_shift, step), (by_turn, step / 2)))
        frames = Frames(frames.rotation @ exponential(-by_turn * movable), frames.origin - by_shift * movable)
    return frames


def _shortened(steps: Tensor) -> Tensor:
    """Steps (n, 3) of at most `LONGEST`."""
    return steps * (LONGEST / steps.norm(dim=-1, keepdim=True).clamp(min=LONGEST))


def _energy(atoms: Tensor, pairs: Tensor, joined: Tensor | None) -> Tensor:
    """Å²; atoms (n, 3, 3) are N, CA and C."""
    one, other = atoms[pairs[0]], atoms[pairs[1]]
    alphas = _distance(one[:, 1], other[:, 1])
    every = _distance(one[:, :, None], other[:, None])
    total = (NEAREST_CA - alphas).clamp(min=0).square().sum()
    total = total + 0.5 * (NEAREST_ATOMS - every).clamp(min=0).square().sum()
    if joined is not None:
        here, after = atoms[:-1], atoms[1:]
        for of, to, wanted in ((2, 0, C_N), (2, 1, C_CA), (1, 0, CA_N), (1, 1, CA_CA)):
            total = total + ((_distance(here[:, of], after[:, to]) - wanted).square() * joined).sum()
    return total


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return ((one - other).square().sum(-1) + 1e-6).sqrt()


def _close_pairs(origin: Tensor, batch: Tensor) -> Tensor:
    """(2, pairs) of residues of one chain, three or more apart, whose CA are within 8 Å."""
    place = torch.arange(len(batch))
    near = (torch.cdist(origin, origin) < 8) & (batch[:, None] == batch) & (place[:, None] - place >= 3)
    return near.nonzero().T
