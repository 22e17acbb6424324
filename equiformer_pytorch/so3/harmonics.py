r"""Real spherical harmonics in e3nn's basis: polar axis y, orders −l … l, degree 1 is (x, y, z)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from equiformer_pytorch.so3.grid import sphere_quadrature


def recurrence_constants(max_degree: int) -> Float64[Tensor, "two degrees orders"]:
    r"""Constants :math:`a_{lm}, b_{lm}` of the recurrence in :func:`spherical_harmonics`, as one (2, L+1, L+1) tensor.

    The diagonal of the first holds :math:`Q_m^m`, the constant that starts the recurrence of order m.
    """
    constants = torch.zeros(2, max_degree + 1, max_degree + 1, dtype=torch.float64)
    sectoral = 1.0
    for degree in range(max_degree + 1):
        sectoral *= 1.0 if degree == 0 else (2 * degree + 1) ** 0.5 / ((2 * degree) ** 0.5 if degree > 1 else 1.0)
        constants[0, degree, degree] = sectoral
        order = torch.arange(degree, dtype=torch.float64)
        constants[0, degree, :degree] = ((4 * degree**2 - 1) / (degree**2 - order**2)).sqrt()
        if degree > 1:
            below = degree - 1
            constants[1, degree, :degree] = ((below**2 - order**2) / (4 * below**2 - 1)).sqrt()
    return constants


def spherical_harmonics(
    directions: Float[Tensor, "*points 3"],
    constants: Float[Tensor, "two degrees orders"],
    even_only: bool = False,
) -> Float[Tensor, "*points coefficients"]:
    r"""All :math:`Y_{lm}` of unit vectors, degree-major, orders −l … l, "component" normalised (mean square 1).

    With :math:`\zeta = z + ix` and the reduced, normalised Legendre functions :math:`Q_l^m(y)`,

    .. math::
        Y_{l,m} = Q_l^m\,\mathrm{Re}\,\zeta^m, \quad Y_{l,-m} = Q_l^m\,\mathrm{Im}\,\zeta^m, \quad
        Q_l^m = a_{lm}\,(y\,Q_{l-1}^m - b_{lm}\,Q_{l-2}^m),

    which is stable for every degree (Holmes & Featherstone 2002) and a polynomial: no angle, no pole, smooth to
    all orders. The input must have unit length; the gradient is that of the polynomial extension.

    Args:
        directions: unit vectors; the result has their dtype.
        constants: :func:`recurrence_constants` of the highest degree wanted, in the same dtype.
        even_only: leave out the odd degrees.
    """
    max_degree = constants.shape[1] - 1
    x, y, z = directions.unsqueeze(-2).unbind(-1)

    cosine, sine = [torch.ones_like(y)], []
    for _ in range(max_degree):
        previous_sine = sine[-1] if sine else torch.zeros_like(y)
        sine.append(z * previous_sine + x * cosine[-1])
        cosine.append(z * cosine[-1] - x * previous_sine)
    azimuthal = torch.cat((*reversed(sine), *cosine), dim=-1)

    reduced = constants[0, 0, :1].expand_as(y)
    before = torch.zeros_like(reduced)
    levels = [reduced]
    for degree in range(1, max_degree + 1):
        a, b = constants[0, degree], constants[1, degree]
        tail = a[degree : degree + 1].expand_as(y)
        lower = a[:degree] * (y * reduced - b[:degree] * F.pad(before, (0, degree - before.shape[-1])))
        before, reduced = reduced, torch.cat((lower, tail), dim=-1)
        levels.append(reduced)

    harmonics = []
    for degree in range(0, max_degree + 1, 2 if even_only else 1):
        level = levels[degree]
        mirrored = torch.cat((level[..., 1:].flip(-1), level), dim=-1)
        harmonics.append(mirrored * azimuthal[..., max_degree - degree : max_degree + degree + 1])
    return torch.cat(harmonics, dim=-1)


def stretched_product(degree: int) -> Float64[Tensor, "pairs orders"]:
    r"""The matrix :math:`C_l` of an even degree l ≥ 4 with :math:`Y_l = (Y_{l-2} \otimes Y_2)\,C_l`.

    The product of two harmonics of one direction holds each degree once, so that its projection on degree l, by exact
    quadrature, is a multiple of :math:`Y_l`; the highest degree is the best conditioned one.
    """
    points, weights = sphere_quadrature(2 * degree)
    harmonics = spherical_harmonics(points, recurrence_constants(degree))
    below, two, wanted = (harmonics[:, d**2 : (d + 1) ** 2] for d in (degree - 2, 2, degree))
    product = (below[:, :, None] * two[:, None]).flatten(1)
    projection = (product * weights[:, None]).mT @ wanted
    # (Y ⊗ Y) P = c Y_l for every direction
    return projection / ((product @ projection * wanted).sum() / wanted.square().sum())


def even_harmonics(
    directions: Float[Tensor, "points 3"],
    quadratic: Float[Tensor, "nine five"],
    products: Sequence[Float[Tensor, "_pairs _orders"]],
) -> Float[Tensor, "points coefficients"]:
    r"""The even degrees of :func:`spherical_harmonics` above 0, 2 … 2 + 2·len(products), in a few large operations:
    :math:`Y_2 = \mathrm{vec}(n n^T)\,Q`, then :math:`Y_l = (Y_{l-2} \otimes Y_2)\,C_l`.

    Args:
        directions: unit vectors n; the result has their dtype, and is a polynomial in them.
        quadratic: :func:`quadratic_form` and products: :func:`stretched_product` of degrees 4, 6 …, both in that dtype.
    """
    two = (directions[:, :, None] * directions[:, None]).flatten(1) @ quadratic
    levels = [two]
    for matrix in products:
        levels.append((levels[-1][:, :, None] * two[:, None]).flatten(1) @ matrix)
    return torch.cat(levels, dim=1) if len(levels) > 1 else two


def quadratic_form() -> Float64[Tensor, "nine five"]:
    """Q with :math:`Y_2(n) = \\mathrm{vec}(n n^T)\\,Q`, by exact quadrature."""
    points, weights = sphere_quadrature(4)
    wanted = spherical_harmonics(points, recurrence_constants(2))[:, 4:]
    product = (points[:, :, None] * points[:, None]).flatten(1)
    # Symmetric products of degree 2 have mean squares 2/15 apart from the trace, which is of degree 0.
    return (product * weights[:, None]).mT @ wanted * 7.5
