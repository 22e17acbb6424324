"""From what a caller says of points and edges to their features: tokens and positions embedded."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.tracing import exporting
from equiformer_pytorch.inputs.layout import Layout
from equiformer_pytorch.layers.fiber import Fiber, join


class PointFeatures(nn.Module):
    """Input features of the real points, flat; tokens and positions embedded.

    Only `embedding_grad_frac` of the gradient reaches the embeddings (CogView, Ding et al. 2021).
    """

    def __init__(
        self, fiber: Fiber, num_tokens: int | None, num_positions: int | None, embedding_grad_frac: float
    ) -> None:
        super().__init__()
        self.fiber = fiber
        self.embedding_grad_frac = embedding_grad_frac
        self.tokens = _embedding(num_tokens, fiber[0])
        self.positions = _embedding(num_positions, fiber[0])

    def check_flat(self, features: dict[int, Tensor]) -> None:
        """Errors for values of flat points that do not fit; types and shapes are checked by :meth:`forward`."""
        if self.tokens is not None and checks.is_integer(features[0]):
            checks.check_tokens("inputs", features[0], self.tokens.num_embeddings)

    def forward(
        self, features: dict[int, Tensor], layout: Layout, dtype: torch.dtype
    ) -> Float[Tensor, "points width_in"]:
        """Flat features; values of dense tokens are checked here, where it is known which are real."""
        invariants = features[0]
        if self.tokens is not None:
            count = self.tokens.num_embeddings
            if not checks.is_integer(invariants):
                raise TypeError(f"inputs must be integer tokens (num_tokens = {count}), got {invariants.dtype}")
            layout.check_shape("inputs", invariants, (), "")
            tokens = layout.compact(invariants.long())
            if len(layout.size) > 1:
                tokens = checks.check_tokens("inputs", tokens, count).clamp(0, count - 1)
            invariants = self._soften(self.tokens(tokens))
        else:
            checks.check_floating("inputs", invariants, "without num_tokens")
            if invariants.ndim == len(layout.size) + 2:
                layout.check_shape("inputs[0]", invariants, (self.fiber[0], 1), ", dim_in, 1")
                invariants = invariants.squeeze(-1)
            layout.check_shape("inputs", invariants, (self.fiber[0],), ", dim_in")
            invariants = layout.compact(invariants).to(dtype)
        if self.positions is not None:
            count = self.positions.num_embeddings
            # Of flat points the longest sequence is a matter of values, which an exported program cannot look at.
            if not exporting() and layout.longest > count:
                raise ValueError(f"inputs must have at most num_positions = {count} points, got {layout.longest}")
            invariants = invariants + self._soften(self.positions(layout.position))

        parts = [invariants[:, None]]
        for degree, channels in enumerate(self.fiber[1:], start=1):
            part, name = features[degree], f"inputs[{degree}]"
            checks.check_floating(name, part)
            layout.check_shape(name, part, (channels, 2 * degree + 1), ", dim_in, 2·degree + 1")
            parts.append(layout.compact(part).to(dtype).mT)
        return join(parts)

    def _soften(self, embedding: Tensor) -> Tensor:
        """Let `embedding_grad_frac` of the gradient through."""
        frac = self.embedding_grad_frac
        return embedding if frac == 1 else embedding.detach().lerp(embedding, frac)


class EdgeFeatures(nn.Module):
    """Features of edges: integer ones embedded or continuous ones, and embedded graph distances."""

    def __init__(self, num_edge_tokens: int | None, edge_dim: int, num_adj_degrees: int | None, adj_dim: int) -> None:
        super().__init__()
        self.edge_dim = edge_dim
        self.edges = nn.Embedding(num_edge_tokens, edge_dim) if num_edge_tokens is not None else None
        self.adjacency = nn.Embedding(num_adj_degrees + 1, adj_dim) if num_adj_degrees and adj_dim else None
        self.width = edge_dim + (adj_dim if self.adjacency is not None else 0)

    def check(self, name: str, given: Tensor | None, size: tuple[int, ...], words: str) -> Tensor | None:
        """The caller's argument `name`, in tensors that begin with the sizes `size`; None where none is wanted."""
        if self.edge_dim == 0:
            if given is not None:
                raise ValueError(f"{name} would be ignored: set edge_dim (and num_edge_tokens for integers)")
            return None
        if given is None:
            raise ValueError(f"{name} is missing: the model was built with edge_dim = {self.edge_dim}")
        given = checks.check_tensor(name, given)
        if self.edges is None:
            checks.check_floating(name, given, "without num_edge_tokens")
            checks.check_shape(name, given, (*size, self.edge_dim), f"({words}, edge_dim)")
            return given
        if not checks.is_integer(given):
            count = self.edges.num_embeddings
            raise TypeError(f"{name} must be integers (num_edge_tokens = {count}), got {given.dtype}")
        checks.check_shape(name, given, size, f"({words})")
        return given

    def forward(
        self, name: str, given: Tensor | None, steps: Int[Tensor, " edges"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "edges width"] | None:
        """From what :meth:`check` passed, edge by edge, and the steps between the ends along the adjacency."""
        parts = []
        if given is not None and self.edges is not None:
            parts.append(self.edges(checks.check_tokens(name, given, self.edges.num_embeddings)))
        elif given is not None:
            parts.append(given.to(dtype))
        if self.adjacency is not None and steps is not None:
            parts.append(self.adjacency(steps))
        return torch.cat(parts, dim=-1) if parts else None


class StructureFeatures(nn.Sequential):
    """Numbers of whole structures (time, noise level, temperature), embedded: two linear layers with SiLU.

    They should be of order one: logarithms of what spans decades.
    """

    def __init__(self, condition_dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(condition_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.condition_dim = condition_dim

    def check(self, given: object, structures: int | None) -> Tensor:
        """The caller's `condition`; None: `structures` is not known otherwise."""
        if given is None:
            raise ValueError(f"condition is missing: the model was built with condition_dim = {self.condition_dim}")
        given = checks.check_tensor("condition", given)
        checks.check_floating("condition", given)
        checks.check_shape("condition", given, (structures, self.condition_dim), "(structures, condition_dim)")
        checks.check_finite("condition", given, "structure")
        return given


def _embedding(count: int | None, dim: int) -> nn.Embedding | None:
    """A small-valued embedding."""
    if count is None:
        return None
    embedding = nn.Embedding(count, dim)
    nn.init.normal_(embedding.weight, std=1e-2)
    return embedding
