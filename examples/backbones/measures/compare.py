"""How far a backbone is from another of the same length."""

from __future__ import annotations

import torch
from torch import Tensor


def rmsd(coords: Tensor, other: Tensor) -> float:
    """Å, of all atoms of backbones (residues, 4, 3), moved and turned onto one another as well as can be (Kabsch 1976),
    never mirrored.

    Raises:
        ValueError: if they are not of the same shape.
    """
    if coords.shape != other.shape:
        raise ValueError(f"other must have the shape of coords, {tuple(coords.shape)}, got {tuple(other.shape)}")
    one, two = (x.flatten(0, -2).double() for x in (coords, other))
    one, two = one - one.mean(0), two - two.mean(0)
    left, values, right = torch.linalg.svd(one.T @ two)
    values = values * torch.tensor([1.0, 1.0, float(torch.linalg.det(left @ right).sign())], dtype=values.dtype)
    squares = one.square().sum() + two.square().sum() - 2 * values.sum()
    return float((squares.clamp(min=0) / len(one)).sqrt())
