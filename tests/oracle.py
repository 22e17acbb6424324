"""e3nn's Wigner matrices in float64, and what they do to features. (Under float32 as default dtype e3nn rounds its
generators to float32.)"""

import math

import torch
from e3nn import o3
from torch import Tensor

from equiformer_pytorch.graph.frames import Rotation
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


def matrices_of(rotation: Rotation) -> list[Tensor]:
    """D_0 … D_L of a rotation that holds all orders; all that lies outside is zero."""
    degree = rotation.spans[-1][1] - 1
    whole = rotation.blocks[0].new_zeros(rotation.blocks[0].shape[0], (degree + 1) ** 2, (degree + 1) ** 2)
    for block, (low, high) in zip(rotation.blocks, rotation.spans, strict=True):
        rows = [d * d + d + m for d, m in order_major(high - 1, rotation.max_order) if d >= low]
        assert block.shape[1:] == (len(rows), high**2 - low**2)
        columns = torch.zeros(len(block), len(rows), (degree + 1) ** 2, dtype=block.dtype)
        columns[:, :, low**2 : high**2] = block
        whole[:, rows] = columns
    for d in range(degree + 1):
        outside = whole[:, d * d : (d + 1) ** 2].clone()
        outside[:, :, d * d : (d + 1) ** 2] = 0
        assert outside.abs().sum() == 0, "degrees are mixed"
    return [whole[:, d * d : (d + 1) ** 2, d * d : (d + 1) ** 2] for d in range(degree + 1)]


def turned(matrices: list[Tensor], x: Tensor, max_order: int) -> Tensor:
    """Edge by edge, degree by degree, row by row."""
    degrees = round(x.shape[1] ** 0.5)
    of_degrees = [matrices[d] @ x[:, d * d : (d + 1) ** 2] for d in range(degrees)]
    return torch.stack([of_degrees[d][:, d + m] for d, m in order_major(degrees - 1, max_order)], dim=1)


def turned_back(matrices: list[Tensor], y: Tensor, degrees: int, max_order: int) -> Tensor:
    """The same, with zeros for the orders that are left out."""
    rows, parts = order_major(degrees - 1, max_order), []
    for d in range(degrees):
        held = [y[:, rows.index((d, m))] if (d, m) in rows else torch.zeros_like(y[:, 0]) for m in range(-d, d + 1)]
        parts.append(matrices[d].mT @ torch.stack(held, dim=1))
    return torch.cat(parts, dim=1)
