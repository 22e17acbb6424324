r"""The flat door: points of all structures in one row, edges as PyG's `edge_index`, periodic images by cell offsets.

An edge is the vector :math:`r_{ij} = x_j + o_{ij} C - x_i` from its receiver i to its sender j, where the rows of C are
the cell vectors of the structure and o are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.tracing import exporting, number_from_data, plain
from equiformer_pytorch.graph.edges import Edges
from equiformer_pytorch.graph.nearest import NeighbourRules, find_neighbours
from equiformer_pytorch.inputs.features import EdgeFeatures
from equiformer_pytorch.inputs.layout import Layout


class FlatArguments(NamedTuple):
    """What says that a call is flat, as the caller gave it."""

    batch: Tensor | None = None
    edge_index: Tensor | None = None
    edge_attr: Tensor | None = None
    cell: Tensor | None = None
    cell_offsets: Tensor | None = None
    structures: int | None = None
    """How many there are, where that is said: a last one may have no points."""

    def check(
        self,
        coors: Float[Tensor, "points 3"],
        rules: NeighbourRules,
        embed: EdgeFeatures,
        gathered: checks.Together,
    ) -> Known:
        """Errors for what does not fit; what must be known of the values to go on comes with the next wait."""
        structures, points = self._structures(coors), coors.shape[0]
        if rules.attend_sparse_neighbors or embed.adjacency is not None:
            raise ValueError(
                "adj_mat is missing: attend_sparse_neighbors or adj_dim needs dense coors (batch, points, 3) with an "
                "adjacency matrix; flat, give connections as edge_index to a model without them"
            )
        known = Known(structures)
        batch = None
        if self.batch is not None:
            batch = checks.check_integers("batch", self.batch, (points,), "(points,)")
            if structures is None and exporting():
                known.structures = number_from_data(batch.max()) + 1
            elif structures is None and points and checks.looks_at_values():
                known.structures = gathered.number(plain(batch).max() + 1)
            checks.check_not_negative("batch", batch)
            if structures is not None:
                checks.check_within("batch", batch, structures)
            if checks.looks_at_values():
                known.unsorted = gathered.number((batch[1:] < batch[:-1]).any())
        checks.check_finite("coors", coors, "point")
        if self.edge_index is None:
            self._check_search(embed)
        else:
            self._check_edges(self.edge_index, batch, points, structures, embed)
            if points and checks.looks_at_values():
                receivers = plain(self.edge_index)[1].long().clamp(0, points - 1)
                counts = torch.zeros_like(coors[:, 0], dtype=torch.long).index_add(
                    0, receivers, torch.ones_like(receivers)
                )
                known.edges = [gathered.number(bound) for bound in counts.aminmax()]
        return known

    def _structures(self, coors: Float[Tensor, "points 3"]) -> int | None:
        """How many there are, where that is said. ValueError unless something says which one each point belongs to."""
        if self.batch is None and self.edge_index is None and self.structures is None:
            raise ValueError(
                f"coors of shape {tuple(coors.shape)} is one list of points: pass batch, the structure of each point "
                "(or edge_index alone for a single structure); dense coors are (batch, points, 3)"
            )
        structures = self.structures
        if structures is None and self.cell is not None:
            structures = checks.check_cell(self.cell).shape[0]
        elif structures is None and self.batch is None:
            structures = 1
        if self.batch is None and structures != 1:
            raise ValueError(f"batch is missing: which of the {structures} structures each point belongs to")
        return structures

    def _check_search(self, embed: EdgeFeatures) -> None:
        """Of a call without edges."""
        if exporting():
            raise ValueError("edge_index is missing: an exported program cannot look for neighbours")
        given = {"edge_attr": self.edge_attr, "cell_offsets": self.cell_offsets, "cell": self.cell}
        checks.check_absent(
            given, "needs edge_index (and cell needs cell_offsets): equiformer_pytorch.atoms.radius_graph gives them"
        )
        if embed.edge_dim:
            raise ValueError(
                f"edge_index and edge_attr are missing: the model was built with edge_dim = {embed.edge_dim}"
            )

    def _check_edges(
        self, edge_index: Tensor, batch: Tensor | None, points: int, structures: int | None, embed: EdgeFeatures
    ) -> None:
        """Of a call with edges."""
        index = checks.check_integers("edge_index", edge_index, (2, None), "(2, edges)")
        offsets = self.cell_offsets
        if (self.cell is None) != (offsets is None):
            missing, given = ("cell", "cell_offsets") if self.cell is None else ("cell_offsets", "cell")
            raise ValueError(f"{missing} is missing: {given} means nothing without it")
        if offsets is not None:
            offsets = checks.check_offsets(offsets, index.shape[1])
            cell = checks.check_cell(self.cell)
            checks.check_shape("cell", cell, (structures, 3, 3), "(structures, 3, 3)")
            checks.check_finite("cell", cell, "structure")
        checks.check_range(index, points)
        embed.check("edge_attr", self.edge_attr, (index.shape[1],), "edges")
        name = torch.arange(points, device=index.device)
        senders, receivers = index.unbind(0)
        structure = torch.zeros_like(name) if batch is None else batch
        checks.check_edges(senders, receivers, offsets, structure, name)

    def layout(self, coors: Float[Tensor, "points 3"], known: Known) -> Layout:
        """Of what :meth:`check` has passed."""
        batch = None if self.batch is None else self.batch.long()
        structures = known.structures.value if isinstance(known.structures, checks.Answer) else known.structures
        sort = known.unsorted is None or bool(known.unsorted.value)
        return Layout.of_batch(batch, coors.shape[0], structures, coors.device, sort)

    def edges(
        self,
        coordinates: Float[Tensor, "points 3"],
        layout: Layout,
        known: Known,
        rules: NeighbourRules,
        embed: EdgeFeatures,
        dtype: torch.dtype,
    ) -> Edges:
        """The given edges; without them those to each point's neighbours."""
        if self.edge_index is not None:
            return self._given_edges(self.edge_index, coordinates, layout, known, embed, dtype)
        senders, receivers, bounds = find_neighbours(
            coordinates.detach(), layout.table, num_neighbors=rules.num_neighbors, valid_radius=rules.valid_radius
        )
        vectors = coordinates.index_select(0, senders) - coordinates.index_select(0, receivers)
        return Edges(senders, receivers, vectors, None, bounds)

    def _given_edges(
        self,
        edge_index: Tensor,
        coordinates: Tensor,
        layout: Layout,
        known: Known,
        embed: EdgeFeatures,
        dtype: torch.dtype,
    ) -> Edges:
        points = coordinates.shape[0]
        senders, receivers = edge_index.long().unbind(0)
        if layout.flat is not None:
            place = torch.empty_like(layout.flat)
            place[layout.flat] = torch.arange(points, device=place.device)
            senders, receivers = place[senders], place[receivers]
        order = (receivers * points + senders).argsort(stable=True)
        senders, receivers = senders[order], receivers[order]
        vectors = coordinates.index_select(0, senders) - coordinates.index_select(0, receivers)
        if self.cell_offsets is not None:
            cell = checks.check_cell(self.cell).to(coordinates.dtype)
            cell_of_edge = cell.index_select(0, layout.structure[receivers])
            offsets = self.cell_offsets.detach()[order].to(cell.dtype)
            vectors = vectors + (offsets[:, None] @ cell_of_edge).squeeze(1)
        features = None if self.edge_attr is None else self.edge_attr[order]
        least, most = (bound.value for bound in known.edges) if known.edges else (0, checks.most_neighbors())
        bounds = None if most is None else (least, most)
        return Edges(senders, receivers, vectors, embed("edge_attr", features, None, dtype), bounds)


@dataclass
class Known:
    """What must be known of the values of a flat call to go on; None where nobody looks."""

    structures: int | checks.Answer | None
    unsorted: checks.Answer | None = None
    edges: list[checks.Answer] = field(default_factory=list)
    """Least and most edges of a point."""


def is_data(inputs: object) -> bool:
    """Whether this is an object like PyG's `Data`, known by its `pos`."""
    return not isinstance(inputs, Tensor | Mapping) and hasattr(inputs, "pos")


def open_data(data: Any, tokens: bool, uses_edge_attr: bool) -> tuple[Tensor, Tensor, FlatArguments]:
    """Features, coordinates and the flat arguments in an object like PyG's `Data` or `Batch`.

    Features are `x`; for a model that takes `tokens` `z` where there is one. `edge_attr` is left aside, like anything
    else that such an object carries, where the model has no use for it.
    """
    names = ("z", "x", "batch", "edge_index", "edge_attr", "cell", "cell_offsets", "num_graphs")
    held = {name: getattr(data, name, None) for name in names}
    features = held["z"] if held["x"] is None or (tokens and held["z"] is not None) else held["x"]
    if features is None:
        raise ValueError("inputs must have x or z, the features of the points, beside pos")
    structures = 1 if held["batch"] is None else held["num_graphs"]
    edge_attr = _one_column(held["edge_attr"]) if uses_edge_attr else None
    flat = FlatArguments(held["batch"], held["edge_index"], edge_attr, held["cell"], held["cell_offsets"], structures)
    return _one_column(features), data.pos, flat


def _one_column(tokens: Any) -> Any:
    """Tokens (n, 1), as PyG's data sets often have them, as (n,)."""
    one = isinstance(tokens, Tensor) and checks.is_integer(tokens) and tokens.ndim == 2 and tokens.shape[1] == 1
    return tokens.squeeze(1) if one else tokens
