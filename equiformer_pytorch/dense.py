"""Dense batches: which points are real, and their features and edges, flat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch import checks
from equiformer_pytorch.graph import Table
from equiformer_pytorch.layers.fiber import Fiber, join
from equiformer_pytorch.neighbours import graph_distances


@dataclass(frozen=True)
class Batch:
    """Which of the (structures, columns) points of a dense batch are real, and where they are once flat."""

    structures: int
    columns: int
    flat: Int[Tensor, " points"] | None
    """Index of each real point among all; None when all are real."""
    structure: Int[Tensor, " points"]
    column: Int[Tensor, " points"]
    table: Table

    @classmethod
    def from_mask(cls, mask: Tensor | None, structures: int, columns: int, device: torch.device) -> Batch:
        """From the caller's (b, n) mask of bool or 0/1 numbers."""
        if mask is not None:
            checks.check_shape("mask", checks.check_tensor("mask", mask), (structures, columns), "(batch, points)")
            mask = checks.as_bool("mask", mask)
            if bool(mask.all()):
                mask = None
        if mask is None:
            index = torch.arange(structures * columns, device=device)
        else:
            index = mask.flatten().nonzero().squeeze(1)
        structure = index // max(columns, 1)
        table = Table(structures, columns) if mask is None else Table.from_groups(structure, structures)
        return cls(structures, columns, None if mask is None else index, structure, index - structure * columns, table)

    def compact(self, x: Float[Tensor, "structures columns ..."]) -> Float[Tensor, "points ..."]:
        """The real points of a dense tensor."""
        x = x.flatten(0, 1)
        return x if self.flat is None else x.index_select(0, self.flat)

    def expand(self, x: Float[Tensor, "points ..."], fill: float = 0) -> Float[Tensor, "structures columns ..."]:
        """Real points back in their places, `fill` elsewhere."""
        if self.flat is not None:
            dense = x.new_full((self.structures * self.columns, *x.shape[1:]), fill)
            x = dense.index_copy(0, self.flat, x)
        return x.unflatten(0, (self.structures, self.columns))

    @property
    def counts(self) -> Int[Tensor, " structures"]:
        """Number of real points of each structure."""
        return torch.bincount(self.structure, minlength=self.structures)

    @property
    def first(self) -> Int[Tensor, " structures"]:
        """Flat index of the first real point of each structure."""
        counts = self.counts
        return counts.cumsum(0) - counts


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

    def forward(
        self, features: dict[int, Tensor], batch: Batch, dtype: torch.dtype
    ) -> Float[Tensor, "points width_in"]:
        size = (batch.structures, batch.columns)
        invariants = features[0]
        if self.tokens is not None:
            count = self.tokens.num_embeddings
            if not checks.is_integer(invariants):
                raise TypeError(f"inputs must be integer tokens (num_tokens = {count}), got {invariants.dtype}")
            checks.check_shape("inputs", invariants, size, "(batch, points)")
            tokens = checks.check_tokens("inputs", batch.compact(invariants.long()), count)
            invariants = self._soften(self.tokens(tokens))
        else:
            checks.check_floating("inputs", invariants, "without num_tokens")
            if invariants.ndim == 4:
                checks.check_shape("inputs[0]", invariants, (*size, self.fiber[0], 1), "(batch, points, dim_in, 1)")
                invariants = invariants.squeeze(-1)
            checks.check_shape("inputs", invariants, (*size, self.fiber[0]), "(batch, points, dim_in)")
            invariants = batch.compact(invariants).to(dtype)
        if self.positions is not None:
            count = self.positions.num_embeddings
            if batch.columns > count:
                raise ValueError(f"inputs must have at most num_positions = {count} points, got {batch.columns}")
            invariants = invariants + self._soften(self.positions(batch.column))

        parts = [invariants[:, None]]
        for degree, channels in enumerate(self.fiber[1:], start=1):
            part, name = features[degree], f"inputs[{degree}]"
            checks.check_floating(name, part)
            wanted = (*size, channels, 2 * degree + 1)
            checks.check_shape(name, part, wanted, "(batch, points, dim_in, 2·degree + 1)")
            parts.append(batch.compact(part).to(dtype).mT)
        return join(parts)

    def _soften(self, embedding: Tensor) -> Tensor:
        """Let `embedding_grad_frac` of the gradient through."""
        frac = self.embedding_grad_frac
        return embedding if frac == 1 else embedding * frac + embedding.detach() * (1 - frac)


class EdgeFeatures(nn.Module):
    """Features of the chosen edges: integer edges embedded or continuous ones, and embedded graph distances."""

    def __init__(self, num_edge_tokens: int | None, edge_dim: int, num_adj_degrees: int | None, adj_dim: int) -> None:
        super().__init__()
        self.edge_dim = edge_dim
        self.edges = nn.Embedding(num_edge_tokens, edge_dim) if num_edge_tokens is not None else None
        self.adjacency = nn.Embedding(num_adj_degrees + 1, adj_dim) if num_adj_degrees and adj_dim else None
        self.width = edge_dim + (adj_dim if self.adjacency is not None else 0)

    def forward(
        self,
        edges: Tensor | None,
        steps: Int[Tensor, "structures columns columns"] | None,
        batch: Batch,
        senders: Int[Tensor, " edges"],
        receivers: Int[Tensor, " edges"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "edges width"] | None:
        """`edges` is the caller's; `steps` counts the steps between points, in the rows of the batch's table."""
        structure = batch.structure[receivers]
        parts = []
        if self.edge_dim == 0 and edges is not None:
            raise ValueError("edges would be ignored: set edge_dim (and num_edge_tokens for integers)")
        if self.edge_dim > 0:
            if edges is None:
                raise ValueError(f"edges is missing: the model was built with edge_dim = {self.edge_dim}")
            edges = checks.check_tensor("edges", edges)
            size = (batch.structures, batch.columns, batch.columns)
            where = (structure, batch.column[receivers], batch.column[senders])
            if self.edges is not None:
                count = self.edges.num_embeddings
                if not checks.is_integer(edges):
                    raise TypeError(f"edges must be integers (num_edge_tokens = {count}), got {edges.dtype}")
                checks.check_shape("edges", edges, size, "(batch, points, points)")
                parts.append(self.edges(checks.check_tokens("edges", edges[where], count)))
            else:
                checks.check_floating("edges", edges, "without num_edge_tokens")
                checks.check_shape("edges", edges, (*size, self.edge_dim), "(batch, points, points, edge_dim)")
                parts.append(edges[where].to(dtype))
        if self.adjacency is not None and steps is not None:
            first = batch.first[structure]
            parts.append(self.adjacency(steps[structure, receivers - first, senders - first]))
        return torch.cat(parts, dim=-1) if parts else None


def steps_between(adj_mat: Tensor, batch: Batch, largest: int) -> Int[Tensor, "structures columns columns"]:
    """Steps between the real points of each structure along the caller's adjacency, in the rows of the table."""
    adj_mat = checks.as_bool("adj_mat", checks.check_tensor("adj_mat", adj_mat))
    if adj_mat.ndim == 2:
        adj_mat = adj_mat.expand(batch.structures, *adj_mat.shape)
    size = (batch.structures, batch.columns, batch.columns)
    checks.check_shape("adj_mat", adj_mat, size, "(batch, points, points), or (points, points)")
    if batch.table.columns == 0:
        return torch.zeros(batch.structures, 0, 0, dtype=torch.long, device=adj_mat.device)
    if batch.flat is not None:
        position, real = batch.table.spread(batch.column), batch.table.mask
        import einx  # here, since importing it takes about a second

        get_at = einx.get_at  # pyright: ignore[reportPrivateImportUsage]
        adj_mat = get_at("b [i j], b p, b q -> b p q", adj_mat, position, position)
        if real is not None:
            adj_mat = adj_mat & real[:, :, None] & real[:, None]
    return graph_distances(adj_mat, largest)


def _embedding(count: int | None, dim: int) -> nn.Embedding | None:
    """A small-valued embedding."""
    if count is None:
        return None
    embedding = nn.Embedding(count, dim)
    nn.init.normal_(embedding.weight, std=1e-2)
    return embedding
