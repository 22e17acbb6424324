"""e3nn's Wigner matrices in float64. (Under float32 as default dtype e3nn rounds its generators to float32.)"""

import math

import torch
from e3nn import o3
from torch import Tensor

from equiformer_pytorch.utils import torch_default_dtype


def wigner_d(degree: int, alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """D of e3nn's Y(alpha) X(beta) Y(gamma)."""
    with torch_default_dtype(torch.float64):
        return o3.wigner_D(degree, alpha.double(), beta.double(), gamma.double())


def random_rotation(seed: int) -> Tensor:
    """A matrix that acts on columns (x, y, z), in float64."""
    a, b, c = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return wigner_d(1, 2 * math.pi * a, (1 - 2 * b).acos(), 2 * math.pi * c)


def wigner_of(matrices: Tensor, max_degree: int) -> list[Tensor]:
    """D_0 … D_L of rotation matrices (edges, 3, 3)."""
    angles = o3.matrix_to_angles(matrices.double())
    return [wigner_d(degree, *angles) for degree in range(max_degree + 1)]


def order_major(max_degree: int, max_order: int) -> list[tuple[int, int]]:
    """(degree, signed order) of the rows in the frame of an edge: 0, +1, −1, +2, …, each by degree."""
    rows = [(degree, order) for degree in range(max_degree + 1) for order in range(-degree, degree + 1)]
    return sorted((row for row in rows if abs(row[1]) <= max_order), key=lambda row: (abs(row[1]), row[1] < 0, row[0]))
