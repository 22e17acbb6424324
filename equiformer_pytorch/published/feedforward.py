"""Feed-forward networks of atoms, through a gate or through samples on a sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.ops.pieces import over_points
from equiformer_pytorch.ops.recompute import product_in_pieces
from equiformer_pytorch.published.activation import KINDS, LEAN, SQUARE, Activation, channel_factor, scalar_channels
from equiformer_pytorch.published.linear import DegreeLinear, linear
from equiformer_pytorch.published.sphere_grid import SphereGrid
from equiformer_pytorch.so3.rows import components, split_degrees

# The degrees of a result of which only the invariants are wanted: (first, last + 1).
INVARIANTS = (0, 1)


class FeedForward(ExactConstants):
    r"""Per-degree linear map, nonlinearity, per-degree linear map, of every atom. The nonlinearity is an
    :class:`~.activation.Activation`, whose invariants are linear in those of the atom; or, with `grid_mlp`, a
    :class:`GridNetwork`. (EquiformerV2, section 4.4; EquiformerV3, section 4.)

    Args:
        activation: a published name, see :data:`~.activation.NAMES`.
        bias_rank: see :class:`~.linear.DegreeLinear`.
        keep: (first, last + 1) of the degrees of the result that are wanted; the others are not computed, and weights
            that do not matter get zero gradients.
        positions: where the linear maps stand in the published three-layer network of samples.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        channels_out: int,
        max_degree: int,
        resolution: Sequence[int] | None,
        activation: str,
        *,
        grid_mlp: bool,
        bias_rank: int,
        dropout: float = 0.0,
        keep: tuple[int, int] | None = None,
        normal_init: bool = False,
        positions: tuple[int, int, int] = (0, 3, 6),
    ) -> None:
        super().__init__()
        self.max_degree, self.keep, self.dropout = max_degree, keep, dropout
        self.width = components(max_degree) * hidden * channel_factor(activation)
        widened = hidden if grid_mlp else hidden * channel_factor(activation)
        self.so3_linear_1 = DegreeLinear(channels, widened, max_degree, bias_rank=bias_rank, normal=normal_init)
        if grid_mlp:
            kind = KINDS[activation.removesuffix(LEAN)]
            product = dropout == 0.0 and (kind.gated or kind.pointwise is SQUARE)
            self.grid = SphereGrid(max_degree, max_degree, resolution, order_major=False, product=product)
            self.kind = kind
            self.grid_mlp = GridNetwork(channels, hidden, activation, positions, normal_init)
            self.scalar_mlp = None
            if kind.scalars != "none":
                self.scalar_mlp = nn.Sequential(_widened(channels, hidden, kind.halves, normal_init))
        else:
            self.grid = None
            count = scalar_channels(activation, hidden, max_degree)
            self.gating_linear = linear(channels, count, normal=normal_init) if count else None
            self.act = Activation(activation, max_degree, max_degree, resolution, order_major=False, dropout=dropout)
        self.so3_linear_2 = DegreeLinear(hidden, channels_out, max_degree, bias_rank=bias_rank, normal=normal_init)
        if "-merge" in activation:
            with torch.no_grad():
                self.so3_linear_2.weight[0] *= 2**-0.5

    def forward(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms components_out out"]:
        return over_points(self._of_atoms, x, self.width)

    def _of_atoms(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms components_out out"]:
        hidden = self._activated(x) if self.grid is None else self._through_grid(x, self.grid)
        return self.so3_linear_2.of_parts(split_degrees(hidden, self.max_degree, self.keep))

    def _activated(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms kept hidden"]:
        scalars = x[:, 0, :0] if self.gating_linear is None else self.gating_linear(x[:, 0])
        hidden = self.act(self.so3_linear_1(x), scalars)
        low, high = (0, self.max_degree + 1) if self.keep is None else self.keep
        return hidden[:, low**2 : high**2]

    def _through_grid(
        self, x: Float[Tensor, "atoms components channels"], grid: SphereGrid
    ) -> Float[Tensor, "atoms kept hidden"]:
        low, high = (0, self.max_degree + 1) if self.keep is None else self.keep
        replaced = self.kind.scalars == "replace" and low == 0
        to, back = grid.matrices(x.dtype)
        back = back[max(low**2, int(replaced)) : high**2]
        if back.shape[0] == 0:
            # Nothing is read from the samples: take none, so that their weights still get gradients, of zero.
            to, back = to[:0], back[:, :0]
        dropout = self.dropout if self.training else 0.0
        hidden = self.grid_mlp(self.so3_linear_1(x), x[:, 0], to, back, dropout)
        if self.scalar_mlp is None or low > 0:
            return hidden
        scalars = F.dropout(self.kind.pointwise(self.scalar_mlp(x[:, :1])), dropout)
        if replaced:
            return torch.cat((scalars, hidden), dim=1)
        return torch.cat((hidden[:, :1] + scalars, hidden[:, 1:]), dim=1)


class GridNetwork(nn.Module):
    r"""A network of the channels at every sample of a sphere, the same at all,

    .. math:: C\,φ(B\,φ(A x)), \qquad C\,\mathrm{swiglu}(A x), \qquad C\,(A_1 x ⊙ A_2 x), \qquad
        C\,(σ(G x_0) ⊙ A_1 x ⊙ A_2 x)

    for ``s2``, ``s2_swiglu``, ``s2_square`` and ``gates2_swiglu``; φ = SiLU. A, C and the gate mix or scale channels
    alone, so they commute with the transforms to samples and back: they act on the (L+1)² components, of which there
    are fewer. The published code applies them to the samples; the result is the same to rounding.

    Args:
        channels: of the atoms, whose invariants are what gates are made of.
        hidden: between the maps, and at both ends unless `ends` has the channels there.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        activation: str,
        positions: tuple[int, int, int],
        normal: bool,
        ends: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        first, last = (hidden, hidden) if ends is None else ends
        self.kind = kind = KINDS[activation.removesuffix(LEAN)]
        self.middle = None
        if kind.gated:
            self.gating_linear = linear(channels, hidden, normal=normal)
            names = "grid_linear_1", "grid_linear_2"
        elif kind.halves:
            names = "0", "2"
        else:
            names = str(positions[0]), str(positions[2])
            self.middle = str(positions[1])
            self.add_module(self.middle, linear(hidden, hidden, bias=False, normal=normal))
        self.first_name, self.last_name = names
        widened = linear(first, 2 * hidden if kind.halves else hidden, bias=False, normal=normal)
        self.add_module(self.first_name, _Named(widened) if kind.halves and not kind.gated else widened)
        self.add_module(self.last_name, linear(hidden, last, bias=False, normal=normal))

    def forward(
        self,
        x: Float[Tensor, "atoms components hidden"],
        scalars: Float[Tensor, "atoms channels"],
        to: Float[Tensor, "samples components"],
        back: Float[Tensor, "kept samples"],
        dropout: float,
    ) -> Float[Tensor, "atoms kept hidden"]:
        x = self.get_submodule(self.first_name)(x)
        pointwise = SQUARE if self.kind.gated else self.kind.pointwise
        middle = () if self.middle is None else (cast(nn.Linear, self.get_submodule(self.middle)).weight,)

        def factors(x: Tensor, to: Tensor, back: Tensor, *middle: Tensor) -> tuple[Tensor, Tensor]:
            samples = F.dropout(pointwise(to @ x), dropout)
            for weight in middle:
                samples = F.dropout(F.silu(F.linear(samples, weight)), dropout)
            return back, samples

        if dropout > 0.0:
            back, samples = factors(x, to, back, *middle)
            y = back @ samples
        else:
            y = product_in_pieces(factors, (x,), (to, back, *middle), to.shape[0] * x.shape[2])
        if self.kind.gated:
            y = y * self.gating_linear(scalars).sigmoid()[:, None]
        return self.get_submodule(self.last_name)(y)


class _Named(nn.Module):
    """A linear map under the name that it has in published files."""

    def __init__(self, made: nn.Linear) -> None:
        super().__init__()
        self.linear = made

    def forward(self, x: Float[Tensor, "*points channels"]) -> Float[Tensor, "*points out"]:
        return self.linear(x)


def _widened(channels: int, hidden: int, halves: bool, normal: bool) -> nn.Module:
    """To the hidden channels, twice as many where a function of two halves follows."""
    made = linear(channels, 2 * hidden if halves else hidden, normal=normal)
    return _Named(made) if halves else made
