"""Rotations from ZYZ angles, on vectors and on features of any degree."""

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.checks import check_number, check_shape
from equiformer_pytorch.so3.wigner import rotation_about_y, rotation_about_z


def rot(
    alpha: float | Float[Tensor, "*batch"],
    beta: float | Float[Tensor, "*batch"],
    gamma: float | Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3 3"]:
    r""":math:`R_z(\alpha)\,R_y(\beta)\,R_z(\gamma)`, acting on column vectors (x, y, z).

    Args:
        alpha, beta, gamma: in radians, numbers or tensors. Of tensors the result has the dtype, of numbers torch's
            default.
    """
    dtype = torch.get_default_dtype()
    return irr_repr(
        1,
        torch.stack(
            [
                torch.as_tensor(angle, dtype=None if isinstance(angle, Tensor) else dtype)
                for angle in (alpha, beta, gamma)
            ],
            dim=-1,
        ),
    )


def irr_repr(degree: int, angles: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch order order"]:
    r"""Wigner D of :func:`rot` (α, β, γ) in the basis of this package's features, e3nn's real one.

    :math:`Y_l(R p) = D_l(R)\,Y_l(p)`; for degree 1 it is `rot` itself. (The published package 0.5.4 returns the
    degree-1 matrix for components in the order y, z, x, which none of its features have.)

    Args:
        degree: l; the matrix has 2l + 1 rows.
        angles: α, β and γ in radians; the matrix is of their dtype.

    Raises:
        ValueError, TypeError: for a degree that is no natural number, and angles of another shape.
    """
    check_number("degree", degree, 0)
    check_shape("angles", angles, (*angles.shape[:-1], 3), "(…, 3)")
    alpha, beta, gamma = angles.unbind(-1)
    first, last = rotation_about_z(degree, torch.stack((alpha, gamma)))
    return first @ rotation_about_y(degree, beta) @ last
