r"""The frames of the polarizability tensors, which are not those of the geometries.

The tensors are in the standard orientation of the program that computed them: axes along the principal axes of the
charges of the nuclei about their centre,

.. math:: Q = \sum_i Z_i\,(r_i - c)(r_i - c)^T, \qquad c = \sum_i Z_i r_i \Big/ \sum_i Z_i,

x along the largest eigenvalue, z along the smallest. Which way an axis points is not told, so what is known of a
tensor in the frame of its geometry are four candidates, one for each way of turning the axes by half-turns: the pairs
(xy, xz), (xy, yz) or (xz, yz) of the components in these axes may have the other sign. An error is that of the nearest
candidate.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from examples.qm9.data import Molecules

# Of a symmetric matrix, the places of xx, xy, yy, xz, yz, zz.
PLACES = ((0, 1, 3), (1, 2, 4), (3, 4, 5))
# Rotations that leave all axes in their places.
HALF_TURNS = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))


def charge_axes(molecules: Molecules) -> Float[Tensor, "molecules 3 3"]:
    """The principal axes of the charges as columns, that of the largest moment first, right-handed."""
    pos, charge = charge_centred(molecules.numbers, molecules.pos, molecules.molecule(), len(molecules))
    outer = charge[:, None, None] * pos[:, :, None] * pos[:, None]
    moments = outer.new_zeros(len(molecules), 3, 3).index_add(0, molecules.molecule(), outer)
    axes = torch.linalg.eigh(moments).eigenvectors.flip(-1)
    return axes * torch.linalg.det(axes).sign()[:, None, None]


def charge_centred(
    numbers: Tensor, pos: Float[Tensor, "atoms 3"], molecule: Tensor, count: int
) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, " atoms"]]:
    """Positions from the centre of the charges of the nuclei of their molecule, and these charges."""
    charge = numbers.to(pos.dtype)
    total = charge.new_zeros(count).index_add(0, molecule, charge)
    centre = pos.new_zeros(count, 3).index_add(0, molecule, charge[:, None] * pos) / total[:, None]
    return pos - centre.index_select(0, molecule), charge


def candidates(
    components: Float[Tensor, "molecules 6"], axes: Float[Tensor, "molecules 3 3"]
) -> Float[Tensor, "molecules 4 3 3"]:
    """Tensors in the frames of the geometries, from their components xx, xy, yy, xz, yz, zz in these axes."""
    matrices = components[:, torch.tensor(PLACES)]
    signs = torch.tensor(HALF_TURNS, dtype=components.dtype)
    turned = matrices[:, None] * (signs[:, :, None] * signs[:, None])
    return axes[:, None] @ turned @ axes[:, None].mT
