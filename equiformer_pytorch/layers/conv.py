"""The eSCN convolution: messages along edges, linear in the features, in the frame of the edge."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.so2 import SO2Linear
from equiformer_pytorch.ops.rotate import gather_rotate


class Conv(nn.Module):
    r"""Message of every edge from the features of its two ends,

    .. math:: h_{ij} = \mathrm{SO2}_{w_{ij}}\bigl(D_{ij}\,(A x_i + B x_j)\bigr),

    still in the edge frame, so that invariant nonlinearities may follow before it is turned back. A and B are
    per-degree linear maps of the points to a common number of channels, applied by the layer that owns this, together
    with its other maps; the SO(2) map is :class:`SO2Linear` with radial weights w of the edge. (Passaro & Zitnick
    2023, section 3.3; they concatenate the two ends, we add them, as Equiformer does.)

    Radial weights scale channels, so features need enough of them: A and B widen narrow ones up to twofold, to 32.

    Args:
        fiber: of the points' features.
        degrees_out, channels_out, invariants, gates, radial_dim, reflection_equivariant: as in :class:`SO2Linear`.
    """

    def __init__(
        self,
        fiber: Fiber,
        degrees_out: int,
        channels_out: int,
        *,
        invariants: int = 0,
        gates: int = 0,
        radial_dim: int,
        reflection_equivariant: bool,
    ) -> None:
        super().__init__()
        self.channels = max(max(fiber), min(32, 2 * max(fiber)))
        wide = Fiber((self.channels,) * len(fiber))
        self.degrees_out, self.width = degrees_out, wide.width
        self.from_receiver = Linear(fiber, wide, bias=True)
        self.from_sender = Linear(fiber, wide)
        self.so2 = SO2Linear(
            len(fiber),
            self.channels,
            degrees_out,
            channels_out,
            invariants=invariants,
            gates=gates,
            radial_dim=radial_dim,
            reflection_equivariant=reflection_equivariant,
        )

    def forward(
        self,
        sender: Float[Tensor, "points components channels"],
        receiver: Float[Tensor, "receivers components channels"],
        graph: EdgeGraph,
        matrices: Sequence[Tensor],
    ) -> tuple[Float[Tensor, "edges invariants"], Float[Tensor, "edges rows channels_out"]]:
        """What :meth:`SO2Linear.forward` gives, from what `from_sender` and `from_receiver` made of the points;
        `matrices` are those of :meth:`SO2Linear.build`."""
        aligned = gather_rotate(sender, receiver, graph, self.so2.max_order)
        return self.so2(aligned, graph.scalars, matrices)
