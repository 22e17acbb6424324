"""Attention weights over the edges of each receiver."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.graph.edges import EdgeGraph, Slots
from equiformer_pytorch.ops.dispatch import operation


@operation
def slot_softmax(
    logits: Float[Tensor, "receivers slots heads"], slots: Slots, gates: Float[Tensor, "receivers heads"] | None = None
) -> tuple[Float[Tensor, "receivers slots heads"], Float[Tensor, "receivers slots heads"]]:
    r"""Attention weights over the slots of each receiver, from logits s and the envelope u of each slot:

    .. math:: \alpha_{ij} = u_{ij}\,p_{ij}, \quad
        p_{ij} = \frac{u_{ij}\,e^{t_{ij}}}{\sum_k u_{ik}\,e^{t_{ik}}}, \qquad
        t_{ij} = u_{ij} (s_{ij} - \bar s_i), \quad \bar s_i = \frac{\sum_k u_{ik} s_{ik}}{\sum_k u_{ik} + 0.01}.

    The envelope enters three times: inside, so that a neighbour leaves the sum smoothly; outside, so that an only
    neighbour does too; and on the logits, so that a favoured neighbour loses its advantage on the way out. Without
    that, one with s larger by 40 would dominate until u reaches exp(−40), and forces would spike there. Well inside
    the radius u is one and this is the plain softmax. Empty slots weigh nothing, also where a point has no others.

    Args:
        gates: γ of each head, if heads have one.

    Returns:
        γ α, and p.
    """
    logits = logits.to(slots.envelope.dtype)  # half-precision logits of autocast: slots are in that of the weights
    with torch.autocast(logits.device.type, enabled=False):
        centred = logits + torch.bmm(slots.minus_share.mT, logits)
        shares = torch.addcmul(slots.log_envelope, centred, slots.envelope).softmax(1)
        return shares * slot_factors(slots, gates), shares


def slot_factors(
    slots: Slots, gates: Float[Tensor, "receivers heads"] | None
) -> Float[Tensor, "receivers slots heads_or_one"]:
    """γ u."""
    return slots.envelope if gates is None else torch.bmm(slots.envelope, gates[:, None].to(slots.envelope.dtype))


def softmax_slopes(
    of_weights: Float[Tensor, "receivers slots heads"],
    of_shares: Float[Tensor, "receivers slots heads"] | None,
    weights: Float[Tensor, "receivers slots heads"],
    shares: Float[Tensor, "receivers slots heads"],
    logits: Float[Tensor, "receivers slots heads"] | None,
    slots: Slots,
    gates: Float[Tensor, "receivers heads"] | None,
    by_slots: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of logits, slots (three, None unless they are wanted) and of what the gates are the sigmoids of,
    from those of what :func:`slot_softmax` gives; differentiable. The logits are needed for the gradients of the
    slots."""
    products = of_weights * weights
    sums = products.sum(1, keepdim=True)
    of_exponents = torch.addcmul(products, shares, sums, value=-1)
    if of_shares is not None:
        of_exponents = of_exponents + torch.ops.aten._softmax_backward_data(of_shares, shares, 1, shares.dtype)
    of_centred = of_exponents * slots.envelope
    totals = of_centred.sum(1, keepdim=True)
    of_gates = None
    if gates is not None:
        of_gates = torch.addcmul(sums.squeeze(1), sums.squeeze(1), gates, value=-1)
    of_envelope = of_log_envelope = of_minus_share = None
    if by_slots and logits is not None:
        centred = logits + torch.bmm(slots.minus_share.mT, logits)
        of_factors = of_weights * shares
        of_factor = of_factors.sum(2, keepdim=True) if gates is None else torch.bmm(of_factors, gates[:, :, None])
        of_envelope = of_factor + (of_exponents * centred).sum(2, keepdim=True)
        of_log_envelope = of_exponents.sum(2, keepdim=True)
        of_minus_share = torch.bmm(logits, totals.mT)
    of_logits = torch.baddbmm(of_centred, slots.minus_share, totals)
    return of_logits, of_envelope, of_log_envelope, of_minus_share, of_gates


@operation
def edge_softmax(
    logits: Float[Tensor, "edges heads"], graph: EdgeGraph, eps: float, kept: Float[Tensor, "edges heads"] | None = None
) -> Float[Tensor, "edges heads"]:
    r"""Attention weights over the edges of each receiver, from logits s and the envelope u (one where there is none):

    .. math:: \alpha_{ij} = u_{ij}\,\frac{u_{ij}\,e^{s_{ij}}}{\sum_k u_{ik}\,e^{s_{ik}} + \epsilon}.

    Logits count from the largest of their receiver, which is taken for a constant: it matters as much as ε does.

    Args:
        kept: factors of the exponentials before they are summed, as dropout of neighbours has them.
    """
    of_receiver = graph.receivers[:, None].expand_as(logits)
    largest = logits.new_full((graph.count, logits.shape[1]), -torch.inf)
    largest = largest.scatter_reduce(0, of_receiver, logits.detach(), "amax")
    weights = (logits - largest.index_select(0, graph.receivers)).exp()
    envelope = None if graph.envelope is None else graph.envelope[:, None]
    for factor in (envelope, kept):
        weights = weights if factor is None else weights * factor
    weights = weights / (graph.sum_receivers(weights) + eps).index_select(0, graph.receivers)
    return weights if envelope is None else weights * envelope
