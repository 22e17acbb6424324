"""Attention by a small network of the message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.activation import smooth_leaky_relu
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.norm import normalised


class MLPAttention(Attention):
    r"""Logits from invariants z of the message, as in GATv2 and Equiformer (Liao & Smidt 2023, section 4.2),

    .. math:: s_{ij}^h = w_h \cdot f\bigl(q_i^h \odot \hat z_{ij}^h + p_i^h \odot z_{ij}^h\bigr), \qquad
        f(z) = z\,\bigl(a + (1 - a)\,\sigma(z)\bigr),

    with `attn_hidden_dim_mult` of them per head. ẑ are all z of the message, normalised together
    (:func:`~equiformer_pytorch.layers.norm.normalised`; EquiformerV2 does so for each head, section 4.2). The queries q
    and p are linear maps of the receiver's invariants that start with biases of 1 and 0, p as zero: what z adds up of
    the two ends it cannot compare. Without norm and queries training stands still for long where a point must first
    find out whom to attend to. f is LeakyReLU of slope a without its kink (as in EquiformerV2), so that forces are
    continuous. Gated messages are Equiformer's nonlinear values; its second tensor product is left out. With
    `single_headed_kv` the heads of a degree share z, q and p, not w.

    Weights from before release 1.4 have no queries; they are loaded as q = 0 and p = 1, and give what they gave.
    """

    def __init__(
        self,
        fiber: Fiber,
        fiber_out: Fiber,
        config: AttentionConfig,
        *,
        attn_leakyrelu_slope: float = 0.1,
        attn_hidden_dim_mult: int = 4,
    ) -> None:
        degrees = len(fiber_out)
        hidden_heads = (1,) * degrees if config.single_headed_kv else config.heads[:degrees]
        hidden = [h * attn_hidden_dim_mult for h in hidden_heads]
        super().__init__(fiber, fiber_out, config, logit_invariants=sum(hidden))
        self.hidden = hidden
        self.slope = attn_leakyrelu_slope
        self.to_query = nn.Linear(self.scalars, 2 * sum(hidden))
        with torch.no_grad():
            self.to_query.weight[sum(hidden) :] = 0
            self.to_query.bias.copy_(self._bias(1, 0))
        self.to_logits = nn.ParameterList(
            torch.randn(h, attn_hidden_dim_mult) * 4 * attn_hidden_dim_mult**-0.5 for h in self.heads
        )
        self._plan()

    def _bias(self, normalised: float, plain: float) -> Float[Tensor, " queries"]:
        """Of the queries, where they depend on nothing."""
        return torch.tensor((normalised, plain)).repeat_interleave(sum(self.hidden))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.to_query, nn.Linear) and prefix + "to_query.weight" not in state_dict:
            state_dict[prefix + "to_query.weight"] = torch.zeros_like(self.to_query.weight)
            state_dict[prefix + "to_query.bias"] = self._bias(0, 1).to(self.to_query.bias)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

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
        z = invariants
        if query is not None:  # a module that 1.3 pickled as a whole has none
            of_normalised, of_plain = query[:, None].chunk(2, dim=-1)
            z = torch.addcmul(z * of_plain, normalised(z), of_normalised)
        return smooth_leaky_relu(z, self.slope) @ matrices[0]
