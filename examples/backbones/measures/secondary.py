"""Helices and strands, by hydrogen bonds (pydssp), and which way helices turn."""

from __future__ import annotations

import itertools

import numpy as np
import pydssp
import torch
from torch import Tensor

from examples.backbones.geometry import dihedral

HELIX, STRAND, COIL = "H", "E", "-"
SHORTEST = 6  # residues; pydssp cannot take fewer
SHORTEST_HELIX = 4  # residues of one whose turn is looked at; of three are odd turns, also natural ones


def secondary_structure(coords: Tensor) -> np.ndarray:
    """`H`, `E` or `-` of each residue of a backbone (residues, 4, 3): an array of one-letter strings.

    pydssp knows helices by their hydrogen bonds alone, so also calls a left-handed one `H`; see `left_handed`.
    """
    if len(coords) < SHORTEST:
        return np.full(len(coords), COIL)
    return np.asarray(pydssp.assign(coords.detach().cpu().float(), out_type="c3"))


def left_handed(coords: Tensor, structure: np.ndarray) -> np.ndarray:
    """Which residues (residues,) are in a helix that turns the wrong way.

    That is a run of four or more `H` whose torsion angles of CA(i - 1), CA(i), CA(i + 1) and CA(i + 2) are mostly
    negative; they are about 50° in an α helix, 75° in a 3₁₀ helix, and −50° in the mirror image of the former.
    """
    ca = coords[:, 1]
    turns = dihedral(ca[:-3], ca[1:-2], ca[2:-1], ca[3:])  # of i - 1 … i + 2, at i - 1
    wrong, start = np.zeros(len(structure), bool), 0
    for letter, group in itertools.groupby(structure.tolist()):
        stop = start + sum(1 for _ in group)
        inside = turns[max(start - 1, 0) : max(stop - 2, start)]
        if letter == HELIX and stop - start >= SHORTEST_HELIX and float(torch.median(inside)) < 0:
            wrong[start:stop] = True
        start = stop
    return wrong
