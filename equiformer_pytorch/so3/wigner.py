r"""Wigner D matrices in e3nn's real basis: of rotations given by angles, and of half-turns.

``D_l(R)`` turns the degree-l components of a function when space is turned by R: :math:`Y_l(Rp) = D_l(R)\,Y_l(p)`.
"""

import math

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from equiformer_pytorch.so3.grid import gauss_legendre, sphere_quadrature
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics


def rotation_about_y(degree: int, angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch order order"]:
    """D_l of the rotation by `angle` about y: orders +m and −m turn like a plane, by m times the angle."""
    order = torch.arange(-degree, degree + 1, device=angle.device, dtype=angle.dtype)
    turn = angle[..., None] * order
    return torch.diag_embed(turn.cos()) + torch.diag_embed(turn.sin().flip(-1)).flip(-1)


def _swap_y_z(degree: int) -> Float64[Tensor, "order order"]:
    """D_l of the half-turn that swaps y and z (and reverses x); a symmetric matrix, its own inverse."""
    points, weights = sphere_quadrature(2 * degree)
    constants = recurrence_constants(degree)
    harmonics = spherical_harmonics(points, constants)[:, degree**2 :]
    turned = spherical_harmonics(points[:, [0, 2, 1]] * points.new_tensor([-1, 1, 1]), constants)[:, degree**2 :]
    return (turned * weights[:, None]).T @ harmonics


def rotation_about_z(degree: int, angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch order order"]:
    """D_l of the rotation by `angle` about z."""
    swap = _swap_y_z(degree).to(angle)
    return swap @ rotation_about_y(degree, angle) @ swap


def half_turn_coefficients(degree: int) -> Float64[Tensor, "even_harmonics entries"]:
    r"""The matrix C with :math:`\mathrm{vec}\,D_l(H_n) = Y_{0,2,\dots,2l}(n)\,C`, where H_n is the half-turn about n.

    D_l(H_n) is a polynomial of degree 2l in n, even in n, so C is its projection on the even harmonics, which
    quadrature of degree 4l gives exactly. At the nodes D_l follows from angles, in float64.
    """
    nodes, node_weights = gauss_legendre(2 * degree + 1)
    azimuths = 4 * degree + 1
    azimuth = torch.arange(azimuths, dtype=torch.float64) * (2 * math.pi / azimuths)
    tilt = rotation_about_z(degree, nodes.acos())
    half_turn = tilt @ rotation_about_y(degree, torch.tensor(math.pi, dtype=torch.float64)) @ tilt.mT
    spin = rotation_about_y(degree, azimuth)
    turned = spin[:, None] @ half_turn @ spin[:, None].mT

    axis = rotation_about_z(1, nodes.acos())[:, :, 1]
    axes = rotation_about_y(1, azimuth) @ axis.T
    harmonics = spherical_harmonics(axes.mT, recurrence_constants(2 * degree), even_only=True)
    weights = (node_weights / (2 * azimuths)).expand(azimuths, -1)
    return torch.einsum("sn,snk,snab->kab", weights, harmonics, turned).flatten(1)


def x_half_turn_signs(degree: int) -> Float64[Tensor, " order"]:
    """The diagonal of D_l of the half-turn about x: (−1)^l for orders m ≥ 0, (−1)^(l+1) for m < 0."""
    order = torch.arange(-degree, degree + 1)
    return torch.where(order < 0, -1.0, 1.0).double() * (-1) ** degree


def half_turn_charts() -> Float64[Tensor, "three three"]:
    """Constants of :func:`half_turn_to_y`: signs of a direction above and below the horizon, and ŷ."""
    return torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def half_turn_to_y(
    directions: Float[Tensor, "edges 3"], charts: Float[Tensor, "three three"]
) -> tuple[Float[Tensor, "edges 3"], Int[Tensor, " edges"]]:
    r"""Axis n of a half-turn that carries unit vectors r to y, in two charts without poles.

    For :math:`r_y \ge 0` it is :math:`n = (r + ŷ)/|r + ŷ|`; the others (second result, 1) must first be turned by π
    about x, which the axis takes into account. Both charts stay a right angle away from their singular point, so
    every derivative is bounded. They differ by a roll about the edge, which an SO(2)-equivariant map does not see.

    Args:
        charts: :func:`half_turn_charts`, in the dtype of the directions.
    """
    below = (directions[:, 1] < 0).long()
    together = torch.addcmul(charts[2], directions, charts.index_select(0, below))
    return together * (2 * together[:, 1:2]).rsqrt(), below
