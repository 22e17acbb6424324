"""Attention by a small network of the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.layers.activation import smooth_leaky_relu
from equiformer_pytorch.layers.attention.base import Attention, AttentionConfig
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.norm import InvariantNorm


class MLPAttention(Attention):
    r"""Logits from invariants z of the message, as in GATv2 and Equiformer (Liao & Smidt 2023, section 4.2),

    .. math:: s_{ij}^h = w_h \cdot f\bigl(q_i^h \odot \hat z_{ij}^h\bigr), \qquad
        f(z) = z\,\bigl(a + (1 - a)\,\sigma(z)\bigr),

    with `attn_hidden_dim_mult` of them per head. ẑ are all z of the message, normalised together
    (:class:`~equiformer_pytorch.layers.norm.InvariantNorm`; EquiformerV2 does so for each head, section 4.2), and the
    query q is a linear map of the receiver's invariants, with a bias of 1: what z adds up of the two ends it cannot
    compare. Without these two, training stands still for long where a point must first find out whom to attend to. f is
    LeakyReLU of slope a without its kink (as in EquiformerV2), so that forces are continuous. Gated messages are
    Equiformer's nonlinear values; its second tensor product is left out. With `single_headed_kv` the heads of a degree
    share z and q, not w.

    Weights from before release 1.4 have neither norm nor query: a layer that loads them has queries of 1 and no norm.
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
        self.logit_norm = InvariantNorm()
        self.to_query = nn.Linear(self.scalars, sum(hidden))
        nn.init.ones_(self.to_query.bias)
        self.to_logits = nn.ParameterList(
            torch.randn(h, attn_hidden_dim_mult) * 4 * attn_hidden_dim_mult**-0.5 for h in self.heads
        )
        self._plan()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(dict(state))
        if "logit_norm" not in self._modules:  # pickled as a whole by 1.3
            self.logit_norm = InvariantNorm()
            self.logit_norm.switch(False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if self.to_query is not None:
            for name, value in self.to_query.named_parameters(prefix + "to_query"):
                state_dict.setdefault(name, torch.full_like(value, float(name.endswith("bias"))))
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
        z = self.logit_norm(invariants)
        return smooth_leaky_relu(z if query is None else z * query[:, None], self.slope) @ matrices[0]
