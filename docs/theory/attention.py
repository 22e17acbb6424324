# %% [markdown]
# # Attention
#
# What a point takes in from its neighbours is a weighted sum of messages, with weights of its own for each head,
#
# $$y_i = W \bigoplus_h \gamma_{ih}\, V_h \Bigl( \alpha^h_{ii}\, m_i + \sum_j \alpha^h_{ij}\, m_{ij} \Bigr) .$$
#
# where $m_{ij}$ is the [message](frames.py) of an edge, gated by its invariants, $m_i$ that of the point to itself, $V_h$
# and $W$ are linear maps, and $\gamma$ is a gate. The weights $\alpha$ are invariant, so the sum turns as the messages do.
# Each message is computed once and shared by keys, values and heads; and all that is linear acts after the sum, on
# points, of which there are far fewer than edges. There are two kinds of logits $s_{ij}$ behind the weights:
#
# - **L2 attention** (Kim et al. 2020), the default: minus the squared distance of query and key,
#   $s_{ij} = -\lVert q_i - k_{ij} \rVert^2 / \sqrt{(2l+1)\,c}$ for $c$ channels of degree $l$. Every degree can have such
#   heads, since distances do not change under rotations.
# - **MLP attention** (GATv2, Equiformer): $s_{ij} = w \cdot f(z_{ij})$ with invariants $z_{ij}$ of the message and a
#   smooth leaky ReLU $f$.
#
# ## A soft edge of the neighbourhood
#
# An ordinary softmax over the neighbours within a radius jumps when one crosses it. Here each edge has an envelope
# $u(r)$, a polynomial that reaches zero at the radius with two continuous derivatives. It enters three times, with
# $\bar s_i$ the mean of the logits of a point, weighted by $u$:
#
# $$\alpha_{ij} = u_{ij}\, \frac{u_{ij}\, e^{t_{ij}}}{\sum_k u_{ik}\, e^{t_{ik}}} , \qquad t_{ij} = u_{ij}\,(s_{ij} - \bar s_i) .$$
#
# Within the softmax, so that a neighbour leaves the sum smoothly. On the result, so that an *only* neighbour, whose
# share is one up to the end, leaves smoothly, too. And on the logits: otherwise a neighbour with a logit 40 higher would
# dominate until $u \approx e^{-40}$, and then leave all at once; continuous, but with enormous forces.
#
# The plots show the weight of a neighbour that moves away, while another one stays:

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import torch

from equiformer_pytorch.graph.edges import Slots
from equiformer_pytorch.graph.table import Table
from equiformer_pytorch.layers.radial import Envelope
from equiformer_pytorch.ops.softmax import slot_softmax

distance = torch.linspace(0.2, 1.1, 600, dtype=torch.float64)
u = Envelope(6)(distance, 1.0)
envelopes = torch.stack((torch.full_like(u, 0.8), u), dim=1)  # one neighbour stays, one moves away


def weights(advantage):
    """Of the neighbour that moves, whose logit is larger by this: plain, with u inside, and as it is here."""
    logits = torch.tensor([0.0, advantage], dtype=torch.float64).expand(len(u), 2)
    plain = torch.where(distance < 1, logits.softmax(1)[:, 1], 0)
    inside = envelopes[:, 1] * logits[:, 1].exp() / (envelopes * logits.exp()).sum(1)
    receivers = torch.arange(len(u)).repeat_interleave(2)
    slots = Slots.of(Table.from_groups(receivers, len(u)), envelopes.flatten(), attend_self=False)
    here, _ = slot_softmax(logits[..., None], slots)
    return {"softmax": plain, "u inside": inside, "here": here[:, 1, 0]}


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 3.2))
left.plot(distance, u, color="C4")
left.set(title="envelope u", xlabel="distance / radius")
for axes, advantage in ((middle, 1.0), (right, 20.0)):
    for name, values in weights(advantage).items():
        axes.plot(distance, values, label=name)
    axes.set(title=f"weight, logit larger by {advantage:g}", xlabel="distance / radius")
middle.legend()
plt.show()

# %% [markdown]
# ## Attending to nothing, and to everything
#
# A head's gate $\gamma$ is a sigmoid of the point's invariants, so that it can turn itself off. With `attend_self` a
# point is its own first neighbour. `num_linear_attn_heads` adds heads on the invariants that see the whole structure
# at a cost linear in its size, by the second-order Taylor feature map of the exponential. And `return_attn=True`
# returns the weights:

# %% tags=["hide-input"]
from equiformer_pytorch import Equiformer

torch.manual_seed(1)
model = Equiformer(dim=16, depth=1, heads=2, num_neighbors=40, valid_radius=4.0, num_degrees=2, attend_self=True)
coors = 2.0 * torch.randn(1, 40, 3)
with torch.no_grad():
    _, attention = model(torch.randn(1, 40, 16), coors, return_attn=True)
shares, indices = attention[0][0]
there = indices[0, 0] >= 0
to_first = (coors[0, indices[0, 0][there]] - coors[0, 0]).norm(dim=1)
figure, axes = plt.subplots()
for head in range(2):
    axes.scatter(to_first, shares[0, 0, head][there], s=18, label=f"head {head}")
axes.set(
    xlabel="distance from the point", ylabel="attention weight", title="what one point attends to; at zero, itself"
)
axes.legend()
plt.show()
