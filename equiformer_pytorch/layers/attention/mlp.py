"""Attention by a small network of the message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.activation import smooth_leaky_relu
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.norm import normalised


class MLPAttention(Attention):
    r"""Logits from invariants z of the message, as in GATv2 and Equiformer (Liao & Smidt 2023, section 4.2),

    .. math:: s_{ij}^h = w_h \cdot f(z_{ij}^h), \qquad f(z) = z\,\bigl(a + (1 - a)\,\sigma(z)\bigr),

    with `attn_hidden_dim_mult` of them per head; f is LeakyReLU of slope a without its kink (as in EquiformerV2), so
    that forces are continuous. Gated messages are Equiformer's nonlinear values; its second tensor product is left
    out. With `single_headed_kv` the heads of a degree share z, not w.

    With `attn_query` f takes :math:`q_i^h \odot \hat z_{ij}^h` instead: ẑ are all z of the message, normalised together
    (:func:`~equiformer_pytorch.layers.norm.normalised`; EquiformerV2 does so for each head, section 4.2), and the query
    q is a linear map of the receiver's invariants, about 1 at first: what z adds up of the two ends it cannot compare.

    Args:
        fiber, fiber_out, config: as in :class:`Attention`.
        attn_leakyrelu_slope: a.
        attn_hidden_dim_mult: invariants z per head.
        attn_query: see above.
    """

    def __init__(
        self,
        fiber: Fiber,
        fiber_out: Fiber,
        config: AttentionConfig,
        *,
        attn_leakyrelu_slope: float = 0.1,
        attn_hidden_dim_mult: int = 4,
        attn_query: bool = False,
    ) -> None:
        degrees = len(fiber_out)
        hidden_heads = (1,) * degrees if config.single_headed_kv else config.heads[:degrees]
        hidden = [h * attn_hidden_dim_mult for h in hidden_heads]
        super().__init__(fiber, fiber_out, config, logit_invariants=sum(hidden))
        self.hidden = hidden
        self.slope = attn_leakyrelu_slope
        if attn_query:
            self.to_query = nn.Linear(self.scalars, sum(hidden))
            nn.init.ones_(self.to_query.bias)
        # Whom to attend to is found out sooner from logits that differ.
        scale = (4 if attn_query else 1) * attn_hidden_dim_mult**-0.5
        self.to_logits = nn.ParameterList(torch.randn(h, attn_hidden_dim_mult) * scale for h in self.heads)
        self._plan()

    def logit_parameters(self) -> list[Tensor]:
        """w of each degree."""
        return list(self.to_logits)

    def build_logits(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """One matrix from the invariants of all degrees to the logits of all heads."""
        shared = [width == weight.shape[1] for weight, width in zip(parameters, self.hidden, strict=True)]
        blocks = [w if one else torch.block_diag(*w.unbind(0)) for w, one in zip(parameters, shared, strict=True)]
        return [torch.block_diag(*blocks).mT]

    def compared(
        self,
        invariants: Float[Tensor, "receivers slots logit_invariants"],
        query: Tensor | None,
        matrices: Sequence[Tensor],
    ) -> Float[Tensor, "receivers slots heads"]:
        """As in the base class: the logits."""
        z = invariants if query is None else normalised(invariants) * query[:, None]
        return smooth_leaky_relu(z, self.slope) @ matrices[0]
