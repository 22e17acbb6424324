# %% [markdown]
# # The edge frame and SO(2)
#
# A message from point $j$ to point $i$ is a linear function of their features, from any degree into any other, that
# turns along with the edge $r_{ij}$. In general this is a tensor product with the harmonics of the edge, by
# Clebsch–Gordan coefficients: $O(L^6)$ operations for degrees up to $L$.
#
# First turn everything such that the edge lies along y, by $D_{ij}$. The rotations that are left are those about y, and
# they turn the pair of components of order $\pm m$ like a plane, by $m$ times their angle. So an equivariant map mixes
# only components of the same $|m|$, and acts on a pair as a complex number does (eSCN, Passaro & Zitnick 2023):
#
# $$\begin{pmatrix} y_{+m} \\ y_{-m} \end{pmatrix} =
# \begin{pmatrix} U_m & -V_m \\ V_m & U_m \end{pmatrix} \begin{pmatrix} x_{+m} \\ x_{-m} \end{pmatrix}, \qquad
# m_{ij} = D_{ij}^T\, \mathrm{SO2}_w \bigl(D_{ij}\,(A x_i + B x_j)\bigr) .$$
#
# where $A$ and $B$ are linear maps of the points, and the scale $w$ of each channel depends on the length of the edge.
# Every pair of degrees $l, l'$ gets all of its $2\min(l, l') + 1$ independent maps that way, for $O(L^3)$ operations.
# Here is such a map with random weights; what is left empty has to be zero:

# %% tags=["hide-input"]
import math

import matplotlib.pyplot as plt
import torch

from equiformer_pytorch.layers.so2 import SO2Linear
from equiformer_pytorch.so3.rows import order_major_rows

torch.manual_seed(0)
degrees = 4
layer = SO2Linear(degrees, 1, degrees, 1, radial_dim=1, reflection_equivariant=False).double()
rows = order_major_rows(degrees - 1, degrees - 1)
unit = torch.eye(len(rows), dtype=torch.float64)[..., None]
_, columns = layer(unit, torch.zeros(len(rows), 1).double())
matrix = columns[..., 0].detach().T

figure, axes = plt.subplots(figsize=(4.6, 4.2))
limit = matrix.abs().max()
axes.imshow(matrix.where(matrix != 0, math.nan), cmap="coolwarm", vmin=-limit, vmax=limit)
labels = [f"{degree},{order:+d}" if order else f"{degree},0" for degree, order in rows]
axes.set_xticks(range(len(rows)), labels, rotation=90, fontsize=7)
axes.set_yticks(range(len(rows)), labels, fontsize=7)
axes.set(title="degree, order: what mixes with what")
axes.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Rows are stored by order, so each block is one matrix product. A mirror that contains the axis turns $x_{-m}$ into
# $-x_{-m}$; so with `reflection_equivariant` all $V_m$ are zero.
#
# ## Which rotation?
#
# Any that carries the edge to y will do: two of them differ by a roll about y, to which the map is blind. Euler angles,
# the usual choice, have poles, where their derivatives, and with them the forces, are infinite or cut off. Here it is the
# half-turn about $n = (\hat r + \hat y)/|\hat r + \hat y|$. Its Wigner matrix is an even polynomial of $n$, so there is no
# arccos and no pole. Where $\hat r_y < 0$, a half-turn about x comes first, which keeps $|\hat r + \hat y|$ from zero. The
# plot shows how fast the frame turns as an edge moves sideways, for edges at all angles to y:

# %% tags=["hide-input"]
from equiformer_pytorch.graph.frames import EdgeFrames

frames = EdgeFrames(1).double()


def frame(angle, azimuth):
    edge = torch.stack((angle.sin() * azimuth.cos(), angle.cos(), angle.sin() * azimuth.sin()), dim=-1)
    return frames(edge)[1].blocks[0].flatten(1)


def euler(angle, azimuth):
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    about_y = [azimuth.cos(), zero, azimuth.sin(), zero, one, zero, -azimuth.sin(), zero, azimuth.cos()]
    tilt = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one]
    return (torch.stack(tilt, -1).view(-1, 3, 3) @ torch.stack(about_y, -1).view(-1, 3, 3)).flatten(1)


sweep = torch.linspace(0.003, math.pi - 0.003, 400, dtype=torch.float64)
sideways = torch.full_like(sweep, 0.3)
figure, axes = plt.subplots()
for function, label in ((euler, "Euler angles"), (frame, "half-turns, two charts")):
    step = 1e-6
    moved = (function(sweep, sideways + step / sweep.sin()) - function(sweep, sideways)).norm(dim=1) / step
    axes.plot(sweep, moved, label=label)
axes.set(xlabel="angle between the edge and y", ylabel="change of the frame\nper change of the direction", yscale="log")
axes.set_xticks([0, math.pi / 2, math.pi], ["0", "π/2", "π"])
axes.legend()
plt.show()

# %% [markdown]
# The frame is never detached from the graph of derivatives, so forces are exact, and so are derivatives of forces. An
# edge of zero length has no direction: its matrices are zero above degree 0, so that only invariants pass along it.
