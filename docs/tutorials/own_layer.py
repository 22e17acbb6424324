# %% [markdown]
# # Your own layer on the engine, tested
#
# All that this package does on edges is done by a few functions: turn features into the frames of the edges, multiply
# there, turn back, sum ([theory](../theory/frames.py)). A layer of your own takes the same pieces, and
# `equiformer_pytorch.testing` holds it to what it must do.
#
# As an example, a convolution whose messages are damped by their own size: $m_{ij} ← m_{ij} / (1 + |m_{ij}|)$ per
# degree and channel, summed over the neighbours.

# %%
import torch
from torch import Tensor, nn

from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.graph.frames import EdgeFrames
from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.layers.radial import Envelope, LogBasis, RadialNetwork
from equiformer_pytorch.layers.so2 import SO2Linear
from equiformer_pytorch.ops.rotate import gather_rotate, rotate_out
from equiformer_pytorch.testing import (
    Role,
    assert_equivariant,
    assert_gradients,
    equivariance_errors,
)

# %% [markdown]
# ## Features
#
# A `Fiber` says how many channels $c_l$ each degree has. A feature is one tensor, a row of $\sum_l (2l+1)\,c_l$ numbers
# for each point.

# %%
fiber = Fiber((8, 8, 8))  # eight channels of degrees 0, 1, 2
print(
    fiber.width,
    "columns;",
    [tuple(part.shape) for part in fiber.split(torch.zeros(5, fiber.width))],
)

# %% [markdown]
# ## The layer
#
# `gather_rotate` adds a feature of each end of an edge and turns the sum into the frame of the edge, where
# `SO2Linear` is the most general equivariant linear map. `rotate_out` turns back. The message is then a feature like
# any other, and may be treated in any way that is blind to directions, such as scaling by its length.


# %%
class DampedConvolution(nn.Module):
    """y_i = Σ_j u_ij m_ij / (1 + |m_ij|) with m_ij = Dᵀ SO2_w D (A x_i + B x_j).

    Args:
        fiber: of the features, in and out; all degrees equally wide.
        radial_dim: width of the embedding of the edges.
    """

    def __init__(self, fiber: Fiber, radial_dim: int) -> None:
        super().__init__()
        self.fiber = fiber
        self.of_receiver, self.of_sender = (
            Linear(fiber, fiber, bias=True),
            Linear(fiber, fiber),
        )
        self.so2 = SO2Linear(
            len(fiber),
            fiber[0],
            len(fiber),
            fiber[0],
            radial_dim=radial_dim,
            reflection_equivariant=False,
        )

    def forward(self, x: Tensor, graph: EdgeGraph) -> Tensor:
        """Features (points, width) to features (points, width)."""
        sender, receiver = (
            torch.cat(self.fiber.split(layer(x)), dim=1)
            for layer in (self.of_sender, self.of_receiver)
        )
        aligned = gather_rotate(sender, receiver, graph, self.so2.max_order)
        _, message = self.so2(aligned, graph.scalars)
        message = rotate_out(
            message, graph.rotation, len(self.fiber), self.so2.max_order
        )
        parts = []
        for part in message.split(
            [2 * degree + 1 for degree in range(len(self.fiber))], dim=1
        ):
            length = (
                part.square().sum(1, keepdim=True) + 1e-12
            ).sqrt()  # smooth where a message is zero
            parts.append(part / (1 + length))
        message = join(parts) * graph.envelope[:, None]
        return graph.sum_receivers(message)


# %% [markdown]
# ## From coordinates to a graph
#
# All that a layer knows of a structure is an `EdgeGraph`: senders, receivers, the rotation into each edge's frame, an
# embedding of its length, and the envelope, which fades neighbours out towards the cutoff.


# %%
class Model(nn.Module):
    """Two such layers on the points within a cutoff."""

    def __init__(self, fiber: Fiber, cutoff: float = 2.5) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.frames = EdgeFrames(len(fiber) - 1)
        self.envelope = Envelope(6)
        self.radial = RadialNetwork(0, 16, LogBasis())
        self.layers = nn.ModuleList(DampedConvolution(fiber, 16) for _ in range(2))

    def forward(self, x: Tensor, coors: Tensor) -> Tensor:
        """Of features (points, width) and coordinates (points, 3), features."""
        receivers, senders = (
            ((torch.cdist(coors, coors) < self.cutoff).fill_diagonal_(False))
            .nonzero()
            .T
        )
        vectors = coors[senders] - coors[receivers]
        distance, rotation = self.frames(vectors)
        graph = EdgeGraph(
            senders=senders,
            receivers=receivers,
            receiver_points=receivers,
            count=len(coors),
            rotation=rotation,
            scalars=self.radial(distance, None),
            envelope=self.envelope(distance, self.cutoff),
        )
        for layer in self.layers:
            x = x + layer(x, graph)
        return x


torch.manual_seed(0)
model = Model(fiber).double()
points = {
    "x": torch.randn(6, fiber.width).double(),
    "coors": torch.randn(6, 3).double(),
}
print(tuple(model(**points).shape))

# %% [markdown]
# ## Test it
#
# Tell how your own tensors behave: `x` and the result are features of the fiber. `coors` is known by its name.

# %%
role = Role.of_fiber(fiber)
assert_equivariant(model, points, roles={"x": role}, outputs=role)
for name, errors in equivariance_errors(
    model, points, roles={"x": role}, outputs=role
).items():
    print(
        f"{name:12s}",
        ", ".join(f"{part}: {error:.0e}" for part, error in errors.items()),
    )

# %%
# First and second derivatives, against finite differences.
assert_gradients(model, points, fast=True)
print("gradients are right")

# %% [markdown]
# A mistake is found: here a bias on all components, which prefers a direction.


# %%
class Wrong(Model):
    """Adds one to everything."""

    def forward(self, x: Tensor, coors: Tensor) -> Tensor:
        """What the right one gives, and one more."""
        return super().forward(x, coors) + 1


try:
    assert_equivariant(Wrong(fiber).double(), points, roles={"x": role}, outputs=role)
except AssertionError as error:
    print(error)

# %% [markdown]
# The layers of this package are made in the same way: `layers` and `ops` in the [reference](../reference/engine.md).
# Where a kernel of your own can take an operation over: {mod}`equiformer_pytorch.ops.dispatch`.
