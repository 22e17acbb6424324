r"""Symmetric 3×3 matrices, e.g. polarizabilities, as features of degree 0 and 2.

.. math:: \alpha = \frac{s}{\sqrt 3} 1 + \sum_m q_m B_m, \qquad s = \frac{\operatorname{tr} \alpha}{\sqrt 3},

with the five traceless B of :func:`basis`, of Frobenius norm one, in the order of e3nn's real basis: turning α as
R α Rᵀ turns q as features of degree 2, and :math:`|\alpha|^2 = s^2 + |q|^2`.
"""

from __future__ import annotations

import numpy as np


def basis() -> np.ndarray:
    """(5, 3, 3): xz, xy, 2 yy − xx − zz, yz, zz − xx."""
    matrices = np.zeros((5, 3, 3))
    for number, (i, j) in ((0, (0, 2)), (1, (0, 1)), (3, (1, 2))):
        matrices[number, i, j] = matrices[number, j, i] = 0.5**0.5
    matrices[2] = np.diag([-1, 2, -1]) / 6**0.5
    matrices[4] = np.diag([-1, 0, 1]) / 2**0.5
    return matrices


def isotropic_part(matrices: np.ndarray) -> np.ndarray:
    """s (rows,) of matrices (rows, 3, 3)."""
    return np.trace(matrices, axis1=1, axis2=2) / 3**0.5


def traceless_part(matrices: np.ndarray) -> np.ndarray:
    """q (rows, 5) of matrices (rows, 3, 3); an antisymmetric part is left out."""
    return np.einsum("mij,rij->rm", basis(), matrices)


def matrices_of(isotropic: np.ndarray, traceless: np.ndarray) -> np.ndarray:
    """(rows, 3, 3) of s (rows,) and q (rows, 5)."""
    return isotropic[:, None, None] * np.eye(3) / 3**0.5 + np.einsum("rm,mij->rij", traceless, basis())
