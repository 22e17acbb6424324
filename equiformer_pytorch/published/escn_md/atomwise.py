"""Feed-forward networks of atoms, per degree with a gate, or on samples of a sphere."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.ops.pieces import over_points
from equiformer_pytorch.published.activation import GATE, Activation, scalar_channels
from equiformer_pytorch.published.feedforward import GridNetwork
from equiformer_pytorch.published.linear import DegreeLinear, linear
from equiformer_pytorch.published.sphere_grid import SphereGrid
from equiformer_pytorch.so3.rows import components


class SpectralAtomwise(nn.Module):
    r"""Per-degree linear map, gate, per-degree linear map, of every atom; the degrees l ≥ 1 are gated by
    :math:`σ(\mathrm{SiLU}(A x_0))`. (fairchem 2.24, ``uma/escn_md_block.py``.)"""

    def __init__(self, channels: int, hidden: int, max_degree: int) -> None:
        super().__init__()
        self.width = components(max_degree) * hidden
        self.scalar_mlp = nn.Sequential(linear(channels, scalar_channels(GATE, hidden, max_degree)), nn.SiLU())
        self.so3_linear_1 = DegreeLinear(channels, hidden, max_degree)
        self.act = Activation(GATE, max_degree, max_degree, None, order_major=False)
        self.so3_linear_2 = DegreeLinear(hidden, channels, max_degree)

    def forward(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms components channels"]:
        return over_points(self._of_atoms, x, self.width)

    def _of_atoms(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms components channels"]:
        return self.so3_linear_2(self.act(self.so3_linear_1(x), self.scalar_mlp(x[:, 0])))


class GridAtomwise(nn.Module):
    r"""A network of the channels, :math:`C\,\mathrm{SiLU}(B\,\mathrm{SiLU}(A x))`, at every sample of a sphere."""

    def __init__(self, channels: int, hidden: int, max_degree: int, resolution: tuple[int, int] | None) -> None:
        super().__init__()
        self.width = components(max_degree) * hidden
        self.grid = SphereGrid(max_degree, max_degree, resolution, order_major=False, integral=True)
        self.grid_mlp = GridNetwork(channels, hidden, "s2", (0, 2, 4), False, (channels, channels))

    def forward(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms components channels"]:
        return over_points(self._of_atoms, x, self.width)

    def _of_atoms(self, x: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms components channels"]:
        return self.grid_mlp(x, x[:, 0], *self.grid.matrices(x.dtype), 0.0)
