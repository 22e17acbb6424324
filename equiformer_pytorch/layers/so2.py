"""Linear maps that commute with rotations about one axis: all that is left of SO(3) in the frame of an edge."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
        radial_dim: int,
        reflection_equivariant: bool,
    ) -> None:
        super().__init__()
        self.channels_out, self.invariants = channels_out, invariants
        self.max_order = min(degrees_in, degrees_out) - 1
        self.rows = [(degrees_in - m) * channels_in for m in range(self.max_order + 1)]
        self.scale = nn.Linear(radial_dim, sum(self.rows))
        self.weights = nn.ParameterList()
        for m, rows in enumerate(self.rows):
            matrices = 1 if m == 0 or reflection_equivariant else 2
            columns = (degrees_out - m) * channels_out + (invariants if m == 0 else 0)
            self.weights.append(torch.randn(matrices, rows, columns) * (matrices * rows) ** -0.5)
        nn.init.ones_(self.scale.bias)

    def forward(
        self, orders: list[Float[Tensor, "edges signs rows"]], edge_embedding: Float[Tensor, "edges radial_dim"]
    ) -> tuple[list[Float[Tensor, "edges signs degrees channels"]], Float[Tensor, "edges invariants"]]:
        """Takes what ``EdgeRotation.align`` gives, returns what ``EdgeRotation.restore`` takes, and the invariants."""
        scales = self.scale(edge_embedding).split(self.rows, dim=-1)
        products = []
        for x, scale, weight in zip(orders, scales, self.weights, strict=True):
            products.append(self._product(x * scale[:, None], weight))
        invariants, products[0] = products[0].split([self.invariants, products[0].shape[-1] - self.invariants], dim=-1)
        return [y.unflatten(-1, (-1, self.channels_out)) for y in products], invariants.squeeze(1)

    @staticmethod
    def _product(
        x: Float[Tensor, "edges signs rows"], weight: Float[Tensor, "matrices rows columns"]
    ) -> Float[Tensor, "edges signs columns"]:
        """The (complex) product; signs are (−, +), or just (0) for m = 0."""
        if weight.shape[0] == 1:
            return x @ weight[0]
        u, v = weight.unbind(0)
        both = torch.cat((torch.cat((u, -v), dim=-1), torch.cat((v, u), dim=-1)), dim=0)
        return (x.flatten(1) @ both).unflatten(-1, (2, -1))
