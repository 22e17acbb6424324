"""Linear maps that commute with rotations about one axis: all that is left of SO(3) in the frame of an edge."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.fiber import Fiber


class SO2Linear(nn.Module):
    r"""For each order m one matrix that mixes the channels of all degrees l ≥ m. For m > 0 the components (+m, −m)
    are a complex number, and the matrix is complex:

    .. math:: y_{+m} = x_{+m} U_m - x_{-m} V_m, \qquad y_{-m} = x_{+m} V_m + x_{-m} U_m .

    (Passaro & Zitnick 2023, section 3.2.) Before the product every channel of every (degree, order) is scaled by
    a linear function of the edge embedding, in `radial_mixture` variants side by side, each with its own matrix:
    :math:`y = \sum_r (s_r \odot x) W_r`. One variant is enough with 32 channels, more make up for narrow features;
    the default is max(1, 32 // fewest channels), at most 4.

    With `reflection_equivariant` V is zero: a mirror that contains the axis turns :math:`x_{-m}` into
    :math:`-x_{-m}`, so that mixing +m with −m would break parity.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        *,
        radial_dim: int,
        reflection_equivariant: bool,
        radial_mixture: int | None = None,
    ) -> None:
        super().__init__()
        self.fiber_in, self.fiber_out = fiber_in, fiber_out
        self.reflection_equivariant = reflection_equivariant
        self.mixture = min(4, max(1, 32 // min(fiber_in))) if radial_mixture is None else radial_mixture
        self.max_order = min(len(fiber_in), len(fiber_out)) - 1
        self.channels_in = [sum(fiber_in[m:]) for m in range(self.max_order + 1)]
        self.channels_out = [sum(fiber_out[m:]) for m in range(self.max_order + 1)]
        self.scale = nn.Linear(radial_dim, self.mixture * sum(self.channels_in))
        self.weights = nn.ParameterList()
        for m, (c_in, c_out) in enumerate(zip(self.channels_in, self.channels_out, strict=True)):
            matrices = 1 if m == 0 or reflection_equivariant else 2
            rows = self.mixture * c_in
            self.weights.append(torch.randn(matrices, rows, c_out) * (matrices * rows) ** -0.5)

    def forward(
        self, parts: list[Float[Tensor, "edges order channels"]], edge_embedding: Float[Tensor, "edges radial_dim"]
    ) -> list[Float[Tensor, "edges order channels"]]:
        """Features of `fiber_in` in edge frames, one tensor per degree with orders −m … m, m = min(l, max_order);
        the result likewise, of `fiber_out`. The radial scales act on +m and −m alike."""
        orders = [part.unbind(1) for part in parts]
        scales = self.scale(edge_embedding).split([self.mixture * c for c in self.channels_in], dim=-1)
        products = []
        for m, (scale, weight) in enumerate(zip(scales, self.weights, strict=True)):
            minus_then_plus = [row[len(row) // 2 + sign] for sign in sorted({-m, m}) for row in orders[m:]]
            x = torch.cat(minus_then_plus, dim=-1).unflatten(-1, (-1, 1, self.channels_in[m]))
            x = (x * scale.unflatten(-1, (1, self.mixture, -1))).flatten(2)
            product = self._product(x, weight)
            products.append(product.split([*self.fiber_out[m:]] * len({-m, m}), dim=-1))
        return [self._collect(degree, products) for degree in range(len(self.fiber_out))]

    @staticmethod
    def _product(
        x: Float[Tensor, "edges signs rows"], weight: Float[Tensor, "matrices rows columns"]
    ) -> Float[Tensor, "edges signs_columns"]:
        """The (complex) product; signs are (−, +), or just (0) for m = 0."""
        if weight.shape[0] == 1:
            return (x @ weight[0]).flatten(1)
        u, v = weight.unbind(0)
        both = torch.cat((torch.cat((u, -v), dim=-1), torch.cat((v, u), dim=-1)), dim=0)
        return x.flatten(1) @ both

    def _collect(self, degree: int, products: list[tuple[Tensor, ...]]) -> Float[Tensor, "edges order channels"]:
        """The orders −m … m of one degree, from the products of each order: (−) degrees m … L, then (+)."""
        orders = range(1, min(degree, self.max_order) + 1)
        minus = [products[m][degree - m] for m in reversed(orders)]
        plus = [products[m][len(self.fiber_out) + degree - 2 * m] for m in orders]
        return torch.stack((*minus, products[0][degree], *plus), dim=1)
