"""Norms of features of all degrees."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.so3.rows import component_degrees, degree_index, split_degrees

EPS = 1e-5


class DegreeNorm(nn.Module):
    r"""Every degree by its own root mean square, :math:`y_l = g_l\,x_l / \sqrt{\langle x_l^2\rangle + ε}`; the
    invariants are centred first and get a bias. (V2 ``layer_norm``, V3 ``equivariant_layer_norm``.)"""

    def __init__(self, max_degree: int, channels: int) -> None:
        super().__init__()
        self.max_degree = max_degree
        self.affine_weight = nn.Parameter(torch.ones(max_degree + 1, channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "points components channels"]) -> Float[Tensor, "points components channels"]:
        normed = []
        for degree, part in enumerate(split_degrees(x, self.max_degree)):
            if degree == 0:
                part = part - part.mean(-1, keepdim=True)
            scale = (part.square().mean((1, 2), keepdim=True) + EPS).rsqrt()
            part = part * (scale * self.affine_weight[degree])
            normed.append(part + self.affine_bias if degree == 0 else part)
        return torch.cat(normed, dim=1)


def balanced_shares(low: int, max_degree: int) -> Float64[Tensor, " components"]:
    """The weight of each component in a mean in which every degree from `low` on counts alike."""
    shares = [1 / (2 * degree + 1) for degree in degree_index(max_degree)[low**2 :]]
    return torch.tensor(shares, dtype=torch.float64) / max(max_degree + 1 - low, 1)


class _Balanced(ExactConstants):
    """Mean squares in which every degree counts alike."""

    degree: Tensor

    def __init__(self, low: int, max_degree: int) -> None:
        super().__init__()
        self.constant("share", balanced_shares, low, max_degree)
        self.constant("degree", component_degrees, low, max_degree + 1)

    def scale(self, x: Float[Tensor, "points components channels"]) -> Float[Tensor, "points 1 1"]:
        mean = (x.square().mean(-1) * self.cast("share", x.dtype)).sum(1)
        return (mean + EPS).rsqrt()[:, None, None]


class SeparableNorm(_Balanced):
    """Layer norm of the invariants; all higher degrees together by the root of their balanced mean square.
    (V2 ``layer_norm_sh``, V3 ``sep_layer_norm``.)"""

    def __init__(self, max_degree: int, channels: int) -> None:
        super().__init__(1, max_degree)
        self.norm_l0 = nn.LayerNorm(channels, eps=EPS)
        self.affine_weight = nn.Parameter(torch.ones(max_degree, channels))

    def forward(self, x: Float[Tensor, "points components channels"]) -> Float[Tensor, "points components channels"]:
        invariants, higher = x[:, :1], x[:, 1:]
        weight = self.affine_weight.index_select(0, self.degree)
        return torch.cat((self.norm_l0(invariants), higher * (self.scale(higher) * weight)), dim=1)


class MergedNorm(_Balanced):
    """All degrees together by the root of their balanced mean square; with `centring` the invariants are centred first
    and get a bias. (V2 ``rms_norm_sh``, V3 ``merge_layer_norm``; without: V3 ``merge_rms_norm``.)"""

    def __init__(self, max_degree: int, channels: int, *, centring: bool = True) -> None:
        super().__init__(0, max_degree)
        self.affine_weight = nn.Parameter(torch.ones(max_degree + 1, channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels)) if centring else None

    def forward(self, x: Float[Tensor, "points components channels"]) -> Float[Tensor, "points components channels"]:
        if self.affine_bias is not None:
            x = torch.cat((x[:, :1] - x[:, :1].mean(-1, keepdim=True), x[:, 1:]), dim=1)
        y = x * (self.scale(x) * self.affine_weight.index_select(0, self.degree))
        if self.affine_bias is None:
            return y
        return torch.cat((y[:, :1] + self.affine_bias, y[:, 1:]), dim=1)


class RMSNorm(nn.Module):
    r""":math:`y = g\,x / \sqrt{\langle x^2\rangle + ε}` over the channels, in float32 as published, whatever x is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "*points channels"]) -> Float[Tensor, "*points channels"]:
        single = x.float()
        return (single * torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + EPS)).type_as(x) * self.weight
