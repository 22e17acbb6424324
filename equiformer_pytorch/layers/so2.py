"""Linear maps that commute with rotations about one axis: all that is left of SO(3) in the frame of an edge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.activation import gated
from equiformer_pytorch.ops.so2 import Block, BlockPlan, Scale, so2_product
from equiformer_pytorch.so3.rows import order_major_rows

# Entries of the matrix of all gates, one for each component of the message, up to which it costs less than spreading
# the gates of the degrees.
NARROW = 2**13


class SO2Linear(nn.Module):
    r"""For each order m one matrix that mixes the channels of all degrees l ≥ m. For m > 0 the components (+m, −m)
    are a complex number, and the matrix is complex:

    .. math:: y_{+m} = x_{+m} U_m - x_{-m} V_m, \qquad y_{-m} = x_{+m} V_m + x_{-m} U_m .

    (Passaro & Zitnick 2023, section 3.2.) Before the product every channel of every (degree, order) is scaled by a
    linear function of the edge embedding, the same for +m and −m.

    With `reflection_equivariant` V is zero: a mirror that contains the axis turns :math:`x_{-m}` into
    :math:`-x_{-m}`, so that mixing +m with −m would break parity.

    Args:
        degrees_in, channels_in: of the features that come in, the same number of channels in every degree.
        degrees_out, channels_out: of those that come out.
        invariants: channels that come out beside them, invariant.
        gates: how many of these are gates, the last ones, (degrees_out − 1) · channels_out.
        radial_dim: width of the edge embedding.
    """

    def __init__(
        self,
        degrees_in: int,
        channels_in: int,
        degrees_out: int,
        channels_out: int,
        *,
        invariants: int = 0,
        gates: int = 0,
        radial_dim: int,
        reflection_equivariant: bool,
    ) -> None:
        super().__init__()
        self.channels_out, self.invariants, self.gates = channels_out, invariants, gates
        self.max_order = min(degrees_in, degrees_out) - 1
        self.rows = [(degrees_in - m) * channels_in for m in range(self.max_order + 1)]
        self.scale = nn.Linear(radial_dim, sum(self.rows))
        self.weights = nn.ParameterList()
        for m, rows in enumerate(self.rows):
            matrices = 1 if m == 0 or reflection_equivariant else 2
            columns = (degrees_out - m) * channels_out + (invariants if m == 0 else 0)
            self.weights.append(torch.randn(matrices, rows, columns) * (matrices * rows) ** -0.5)
        nn.init.ones_(self.scale.bias)

        self.row_degrees = [degree for degree, _ in order_major_rows(degrees_out - 1, self.max_order)]
        self.degrees_out, self.gated = degrees_out, False
        width = len(self.row_degrees) * channels_out
        # The gate of each component of the message is a few columns more of a small matrix, and saves four operations.
        self.narrow = gates > 0 and self.rows[0] * width <= NARROW
        self.plan = self._plan()

    def gate(self) -> None:
        """From now on the message comes out gated: times the sigmoids of the gates, degree 0 times its own."""
        self.gated = True
        self.plan = self._plan()

    def parameters_in_order(self) -> list[Tensor]:
        """Scale, its bias, and the matrices of the orders."""
        return [self.scale.weight, self.scale.bias, *self.weights]

    def _plan(self) -> BlockPlan:
        """Outputs: the message, where it is gated followed by the gate of each component; and the invariants."""
        first, blocks, row, column = self.rows[0], [], 0, 0
        for m, rows in enumerate(self.rows):
            signs = 1 + (m > 0)
            columns = signs * (self.degrees_out - m) * self.channels_out
            blocks.append(Block((row, row + signs * rows), (column, column + columns)))
            row, column = row + signs * rows, column + columns
        if self.gated:
            blocks.append(Block((0, first), (column, 2 * column)))
        besides = self.invariants - self.gates if self.gated else self.invariants
        if besides:
            blocks.append(Block((0, first), (0, besides), target=1))
        targets = ((1 + self.gated) * column, *((besides,) if besides else ()))
        return BlockPlan(tuple(blocks), (row,), targets, (Scale((0, row), (0, row)),))

    def build(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The map that gives the scales of all rows, its bias, and the blocks of the plan."""
        scale, bias, *weights = parameters
        first, *others = [real_matrix(weight, m) for m, weight in enumerate(weights)]
        besides, message = first[:, : self.invariants], first[:, self.invariants :]
        matrices = [message, *others]
        if self.gated:
            besides, gates = besides.split([self.invariants - self.gates, self.gates], dim=1)
            of_degrees = torch.cat((message[:, : self.channels_out], gates), dim=1).split(self.channels_out, dim=1)
            matrices.append(torch.cat([of_degrees[degree] for degree in self.row_degrees], dim=1))
        if besides.shape[1]:
            matrices.append(besides)
        return [self._repeated(scale), self._repeated(bias), *matrices]

    def _repeated(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "signed_rows *rest"]:
        """For +m and −m."""
        return torch.cat([torch.cat([part] * (1 + (m > 0))) for m, part in enumerate(x.split(self.rows))])

    def forward(
        self,
        x: Float[Tensor, "edges rows channels"],
        scalars: Float[Tensor, "edges radial_dim"],
        matrices: Sequence[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "edges invariants"], Float[Tensor, "edges rows_out channels_out"]]:
        """Takes what ``gather_rotate`` gives; returns the invariants, and what ``rotate_out`` takes. Where the message
        is gated there are no gates among the invariants, else those of each channel of degrees 1 and above.
        `matrices` are those of :meth:`build`."""
        scale, bias, *blocks = self.build(self.parameters_in_order()) if matrices is None else matrices
        message, *besides = so2_product(x.flatten(1), F.linear(scalars, scale, bias), blocks, (), self.plan)
        message = gated(message) if self.gated else message
        return besides[0] if besides else message[:, :0], message.unflatten(1, (-1, self.channels_out))


def real_matrix(
    weight: Float[Tensor, "matrices rows columns"], order: int
) -> Float[Tensor, "signed_rows signed_columns"]:
    """The matrix of the components (+m, −m) side by side: that of U + iV, or U alone for both."""
    if order == 0:
        return weight[0]
    if weight.shape[0] == 1:
        return torch.block_diag(weight[0], weight[0])
    u, v = weight.unbind(0)
    return torch.cat((torch.cat((u, v), dim=1), torch.cat((-v, u), dim=1)))
