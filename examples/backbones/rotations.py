"""Rotations in space: exponential and logarithm, heat kernel, and the rotation that two vectors show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIFORM = 3.0
"""Radians; a heat kernel this wide differs from the uniform distribution by less than 4 e^(−9) of its density."""


def exponential(vector: Tensor) -> Tensor:
    """The rotation (…, 3, 3) about `vector` (…, 3) by its length in radians (Rodrigues)."""
    angle = vector.norm(dim=-1)[..., None, None]
    cross = cross_matrix(vector)
    sine = torch.sinc(angle / math.pi)
    versine = 0.5 * torch.sinc(angle / (2 * math.pi)).square()
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + sine * cross + versine * (cross @ cross)


def cross_matrix(vector: Tensor) -> Tensor:
    """The antisymmetric (…, 3, 3) that maps w to vector × w."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def logarithm(rotation: Tensor) -> Tensor:
    """The vector (…, 3) of at most π whose :func:`exponential` is `rotation`.

    By way of the quaternion, whose largest component is divided by: accurate at every angle, half-turns included.
    """
    m = rotation
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    # Four times the products of the quaternion (w, x, y, z) with each of its components; row by row.
    diagonal = torch.cat((trace[..., None], 2 * m.diagonal(dim1=-2, dim2=-1) - trace[..., None]), -1) + 1
    w_with = torch.stack((m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]), -1)
    xy, xz, yz = (m[..., a, b] + m[..., b, a] for a, b in ((0, 1), (0, 2), (1, 2)))
    wx, wy, wz = w_with.unbind(-1)
    w, x, y, z = diagonal.unbind(-1)
    products = torch.stack((w, wx, wy, wz, wx, x, xy, xz, wy, xy, y, yz, wz, xz, yz, z), -1).unflatten(-1, (4, 4))
    best = diagonal.argmax(-1)[..., None, None].expand(*products.shape[:-2], 1, 4)
    quaternion = torch.nn.functional.normalize(products.gather(-2, best).squeeze(-2), dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    half = torch.atan2(sine, quaternion[..., :1])
    # half / sin(half), 1 at zero
    return 2 * quaternion[..., 1:] / torch.sinc(half / math.pi).clamp(min=1e-12)


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """Radians, (…), of the rotation from one to the other (…, 3, 3)."""
    return logarithm(first.mT @ second).norm(dim=-1)


def from_two(first: Tensor, second: Tensor) -> Tensor:
    """The rotation (…, 3, 3) whose columns are the direction of `first` (…, 3), that of `second` made orthogonal to it,
    and their cross product (Gram & Schmidt). Finite for any input, but not a rotation for parallel ones."""
    x = torch.nn.functional.normalize(first, dim=-1, eps=1e-6)
    y = torch.nn.functional.normalize(second - (second * x).sum(-1, keepdim=True) * x, dim=-1, eps=1e-6)
    return torch.stack((x, y, torch.linalg.cross(x, y)), -1)


def random_rotations(count: int, generator: torch.Generator | None = None) -> Tensor:
    """(count, 3, 3), uniform, float32."""
    quaternion = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=-1)
    w, vector = quaternion[:, :1], quaternion[:, 1:]
    half = torch.atan2(vector.norm(dim=-1, keepdim=True), w)
    return exponential(2 * half * torch.nn.functional.normalize(vector, dim=-1)).float()


class HeatKernel:
    r"""Brownian motion on rotations: after a walk whose tangent has the standard deviation τ in each direction, the
    angle ω has the density

    .. math:: f(\omega) = \frac{1 - \cos\omega}{\pi} \sum_l (2l+1) e^{-l(l+1)\tau^2/2}
        \frac{\sin((l + \tfrac12)\omega)}{\sin(\omega/2)}

    about a uniform axis (Nikolayev & Savyolova 1997). Two walks one after the other are one with the sum of τ².
    """

    def __init__(self, widths: int = 256, angles: int = 1024, narrowest: float = 0.05) -> None:
        # Below, the wrapped normal distribution is the same to a thousandth.
        self.narrowest = narrowest
        self.log_widths = torch.linspace(math.log(narrowest), math.log(UNIFORM), widths, dtype=torch.float64)
        self.angles = torch.linspace(0, math.pi, angles + 1, dtype=torch.float64)
        degree = torch.arange(200, dtype=torch.float64)
        half = (self.angles[1:] / 2)[:, None]
        waves = ((2 * degree + 1) * half).sin() / half.sin() * (2 * degree + 1)
        decay = (-degree * (degree + 1) * self.log_widths.exp()[:, None].square() / 2).exp()
        density = (decay @ waves.T) * (1 - self.angles[1:].cos())
        cumulative = density.clamp(min=0).cumsum(-1)
        self.cumulative = torch.nn.functional.pad(cumulative / cumulative[:, -1:], (1, 0))

    def draw(self, width: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A walk (n, 3, 3) for each of the widths τ (n,) in radians; uniform from `UNIFORM` on. float32."""
        count = width.shape[0]
        tangent = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        width = width.double().clamp(max=UNIFORM)
        row = (width.clamp(min=self.narrowest).log() - self.log_widths[0]) / self.log_widths.diff()[0]
        row = row.round().long().clamp(max=len(self.log_widths) - 1)
        after = torch.searchsorted(self.cumulative[row], share[:, None], right=True).clamp(1, len(self.angles) - 1)
        low, high = self.cumulative[row[:, None], after - 1], self.cumulative[row[:, None], after]
        part = ((share[:, None] - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        # Rows are spaced by a few percent: what is left of the width scales the angle, where it is small.
        between = torch.where(width < 1, width / self.log_widths[row].exp(), 1.0)[:, None]
        angle = (self.angles[after - 1] + part * (math.pi / (len(self.angles) - 1))) * between
        wide = torch.nn.functional.normalize(tangent, dim=-1) * angle
        return exponential(torch.where(width[:, None] < self.narrowest, tangent * width[:, None], wide)).float()
