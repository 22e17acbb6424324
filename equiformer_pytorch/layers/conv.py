"""The eSCN convolution: messages along edges, linear in the features, in the frame of the edge."""

from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import Graph
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.so2 import SO2Linear


class Conv(nn.Module):
    r"""Message of every edge from the features of its two ends,

    .. math:: h_{ij} = \mathrm{SO2}_{w_{ij}}\bigl(D_{ij}\,(A x_i + B x_j)\bigr),

    still in the edge frame, so that invariant nonlinearities may follow before ``graph.rotation.restore``. A and B
    are per-degree linear maps of the points to a common number of channels; the SO(2) map is :class:`SO2Linear` with
    radial weights w of the edge. (Passaro & Zitnick 2023, section 3.3; they concatenate the two ends, we add them,
    as Equiformer does.)

    Radial weights scale channels, so features need enough of them: A and B widen narrow ones up to twofold, to 32.
    """

    def __init__(
        self,
        fiber: Fiber,
        degrees_out: int,
        channels_out: int,
        *,
        invariants: int = 0,
        radial_dim: int,
        reflection_equivariant: bool,
    ) -> None:
        super().__init__()
        self.channels = max(max(fiber), min(32, 2 * max(fiber)))
        wide = Fiber((self.channels,) * len(fiber))
        self.degrees, self.width = len(fiber), wide.width
        self.from_receiver = Linear(fiber, wide, bias=True)
        self.from_sender = Linear(fiber, wide)
        self.so2 = SO2Linear(
            len(fiber),
            self.channels,
            degrees_out,
            channels_out,
            invariants=invariants,
            radial_dim=radial_dim,
            reflection_equivariant=reflection_equivariant,
        )

    def forward(
        self, receiver: Float[Tensor, "receivers width"], sender: Float[Tensor, "points wide"], graph: Graph
    ) -> tuple[list[Float[Tensor, "edges signs degrees channels"]], Float[Tensor, "edges invariants"]]:
        """The orders of the message, and the invariants that come out beside it, from the features of receivers and
        what `from_sender` made of those of all points."""
        ends = graph.add_ends(sender, self.from_receiver(receiver)).unflatten(-1, (-1, self.channels))
        aligned = graph.rotation.align(ends, self.degrees, self.so2.max_order)
        return self.so2(aligned, graph.edge_embedding)
