"""The point-wise half of a block."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.layers.gate import Gate
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.norm import Norm


class FeedForward(nn.Module):
    r"""Norm, linear to `mult` times the channels, :class:`Gate`, linear back.

    With `include_htype_norms` degree 0 of the first map also sees the norms of the channels of degree l ≥ 1,
    smoothed at zero: :math:`\sqrt{\lVert x\rVert^2 + \epsilon^2} - \epsilon`, ε = 0.01.
    """

    smoothing = 1e-2

    def __init__(
        self,
        fiber: Fiber,
        fiber_out: Fiber | None = None,
        *,
        mult: int = 4,
        include_htype_norms: bool = False,
        init_out_zero: bool = True,
    ) -> None:
        super().__init__()
        hidden = Fiber(mult * channels for channels in fiber)
        self.fiber_in = Fiber((sum(fiber), *fiber[1:])) if include_htype_norms else fiber
        self.fiber = fiber
        self.include_htype_norms = include_htype_norms
        self.norm = Norm(fiber)
        self.gate = Gate(hidden)
        self.project_in = Linear(self.fiber_in, self.gate.fiber_in, bias=True)
        self.project_out = Linear(hidden, fiber if fiber_out is None else fiber_out, zero=init_out_zero)

    def forward(self, x: Float[Tensor, "points width"]) -> Float[Tensor, "points width_out"]:
        x = self.norm(x)
        if self.include_htype_norms:
            invariants, *higher = self.fiber.split(x)
            eps = self.smoothing
            norms = [(part.square().sum(1, keepdim=True) + eps**2).sqrt() - eps for part in higher]
            x = join([torch.cat((invariants, *norms), dim=-1), *higher])
        hidden = self.gate(self.gate.fiber_in.split(self.project_in(x)))
        return self.project_out(join(hidden))
