"""Attention over the slots of each receiver: logits, softmax and sums of the messages, as one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.graph.edges import Slots
from equiformer_pytorch.ops.dispatch import operation, written_out
from equiformer_pytorch.ops.heads import FEATURES, MESSAGES, WEIGHTS, HeadPlan, contracted, head_products, head_sums
from equiformer_pytorch.ops.needed import needed
from equiformer_pytorch.ops.softmax import slot_factors, slot_softmax, softmax_slopes


class Distances(NamedTuple):
    r"""What gives the logits :math:`s^h_j = f_h\,(q^h \cdot m_j - \tfrac12 \lVert a^h \odot m_j \rVert^2)`."""

    query: Float[Tensor, "receivers features"]
    metric: Float[Tensor, "columns heads"]
    """a, zero for the components of other degrees."""
    scale: Float[Tensor, " heads"]
    """f, a constant."""


@operation
def attend(
    messages: Sequence[Float[Tensor, "receivers _slots columns"]],
    compared: Distances | Float[Tensor, "receivers slots heads"],
    slots: Slots,
    gates: Float[Tensor, "receivers heads"] | None,
    plan: HeadPlan,
) -> tuple[Float[Tensor, "receivers features"], Float[Tensor, "receivers slots heads"]]:
    """The sums of :func:`~.heads.head_sums` with the weights of :func:`~.softmax.slot_softmax`; derivatives of any
    order. What weights and logits ask of the messages comes out of one product, and squares are not kept.

    Args:
        messages: parts of the slots, one after the other.
        compared: the logits, or what gives them from the messages.
        gates: of each head, before the sigmoid, if heads have one.
        plan: of the sums and of the queries.

    Returns:
        The sums, and p of :func:`~.softmax.slot_softmax`.
    """
    if written_out(*messages):
        joined = _joined(messages)
        gates = None if gates is None else gates.sigmoid()
        weights, shares = slot_softmax(_logits(joined, compared, plan), slots, gates)
        return head_sums(weights.to(joined.dtype), joined, plan), shares
    form = _Form(plan, isinstance(compared, Distances), tuple(part.shape[1] for part in messages))
    tensors = *slots, gates, *(compared if isinstance(compared, Distances) else (compared,)), *messages
    sums, shares, *_ = _Attend.apply(form, *tensors)  # pyright: ignore[reportGeneralTypeIssues]
    return sums, shares


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts), dim=1) if len(parts) > 1 else parts[0]


def _logits(messages: Tensor, compared: Distances | Tensor, plan: HeadPlan) -> Tensor:
    if not isinstance(compared, Distances):
        return compared
    # Under autocast, too, in the weights' precision: of the difference little is left in bfloat16.
    with torch.autocast(messages.device.type, enabled=False):
        messages, query = messages.to(compared.metric.dtype), compared.query.to(compared.metric.dtype)
        lengths = (messages * messages) @ compared.metric.square()
        return head_products(messages, query, plan).sub(lengths, alpha=0.5) * compared.scale


class _Form(NamedTuple):
    """What is no tensor among the arguments."""

    plan: HeadPlan
    distances: bool
    sizes: tuple[int, ...]
    """Slots of each part of the messages."""

    def opened(self, tensors: Sequence[Any]) -> tuple[Distances | Tensor, Slots, Tensor | None]:
        """What is compared, slots and gates."""
        compared = Distances(*tensors[4:7]) if self.distances else tensors[4]
        return compared, Slots(*tensors[:3]), tensors[3]


class _Attend(torch.autograd.Function):
    """What is made on the way is a result, too: the gradient is a function of it, through which the next order goes."""

    @staticmethod
    def forward(ctx: Any, form: _Form, *tensors: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        given, parts = tensors[: -len(form.sizes)], tensors[-len(form.sizes) :]
        compared, slots, gates = form.opened(given)
        messages = _joined(parts)
        logits = _logits(messages, compared, form.plan)
        factors = None if gates is None else gates.sigmoid()
        weights, shares = slot_softmax(logits, slots, factors)
        of_slots = form.distances and any(ctx.needs_input_grad[1:4])
        ctx.form = form
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(messages, weights, shares, factors, logits if of_slots else None, *given)
        sums = head_sums(weights, messages, form.plan)
        return sums, shares, logits if of_slots else None, messages if len(parts) > 1 else None

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None):
        form, (messages, weights, shares, factors, logits, *given) = ctx.form, ctx.saved_tensors
        compared, slots, gates = form.opened(given)
        _, *wanted = needed(ctx, (False, *(tensor is not None for tensor in given), *(True for _ in form.sizes)))
        if torch.is_grad_enabled():  # for the next derivative they must hang on what is given
            factors = None if gates is None else gates.sigmoid()
            weights = shares * slot_factors(slots, factors)
        of_sums, of_shares, of_logits, of_messages = slopes
        if of_sums is None:
            of_sums = messages.new_zeros(messages.shape[0], form.plan.widths()[2])
        of_weights = contracted(WEIGHTS, form.plan, messages, of_sums)
        logits = compared if isinstance(compared, Tensor) else logits
        of_softmax, *found = softmax_slopes(
            of_weights, of_shares, weights, shares, logits, slots, factors, any(wanted[:3])
        )
        of_logits = of_softmax if of_logits is None else of_softmax + of_logits
        if isinstance(compared, Distances):
            of_logits = of_logits * compared.scale
            of_parts = _slopes_of_parts(form, of_sums, messages, weights, of_logits, compared)
            of_metric = None
            if wanted[5]:
                squares, of_lengths = (x.flatten(0, 1) for x in (messages * messages, of_logits))
                of_metric = torch.addmm(compared.metric, squares.mT, of_lengths, beta=0, alpha=-1) * compared.metric
            found += [contracted(FEATURES, form.plan, of_logits, messages), of_metric, None]
        else:
            of_parts = [contracted(MESSAGES, form.plan, part, of_sums) for part in weights.split(form.sizes, dim=1)]
            found.append(of_logits)
        if of_messages is not None:
            split = of_messages.split(form.sizes, dim=1)
            of_parts = [one + other for one, other in zip(of_parts, split, strict=True)]
        return None, *found, *of_parts


def _slopes_of_parts(
    form: _Form, of_sums: Tensor, messages: Tensor, weights: Tensor, of_logits: Tensor, distances: Distances
) -> list[Tensor]:
    """Of the messages: by the sums and the products with queries at once, then by their lengths."""
    pairs = torch.stack((weights, of_logits), dim=3).reshape(*weights.shape[:2], 2 * weights.shape[2])
    of_messages = contracted(MESSAGES, form.plan.doubled(), pairs, form.plan.paired(of_sums, distances.query))
    of_squares = of_logits @ distances.metric.square().mT
    split = zip(*(tensor.split(form.sizes, dim=1) for tensor in (of_messages, messages, of_squares)), strict=True)
    return [torch.addcmul(*of_part, value=-1) for of_part in split]
