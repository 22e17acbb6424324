"""The dense door: structures side by side, padded and masked, edges and adjacency as square matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.graph.edges import Edges
from equiformer_pytorch.graph.nearest import NeighbourRules, find_neighbours, graph_distances
from equiformer_pytorch.inputs.features import EdgeFeatures
from equiformer_pytorch.inputs.layout import Layout


def dense_edges(
    coordinates: Float[Tensor, "points 3"],
    layout: Layout,
    adj_mat: Tensor | None,
    edges: Tensor | None,
    rules: NeighbourRules,
    embed: EdgeFeatures,
    dtype: torch.dtype,
) -> Edges:
    """Edges from each point's neighbours; `edges` is the caller's, (b, n, n) or (b, n, n, edge_dim)."""
    steps = None
    if rules.attend_sparse_neighbors or embed.adjacency is not None:
        if adj_mat is None:
            raise ValueError("adj_mat is missing: attend_sparse_neighbors or adj_dim needs the adjacency matrix")
        steps = steps_between(adj_mat, layout, rules.num_adj_degrees)
    elif adj_mat is not None:
        raise ValueError("adj_mat would be ignored: set attend_sparse_neighbors, or num_adj_degrees_embed and adj_dim")
    senders, receivers, known = find_neighbours(
        coordinates.detach(),
        layout.table,
        num_neighbors=rules.num_neighbors,
        valid_radius=rules.valid_radius,
        graph_distance=steps if rules.attend_sparse_neighbors else None,
        max_sparse_neighbors=rules.max_sparse_neighbors,
    )
    edges = embed.check("edges", edges, (*layout.size, layout.size[1]), "batch, points, points")
    structure = None if edges is None and steps is None else layout.structure[receivers]
    if edges is not None:
        edges = edges[structure, layout.name[receivers], layout.name[senders]]
    if steps is not None:
        first = layout.first[structure]
        steps = steps[structure, receivers - first, senders - first]
    vectors = coordinates.index_select(0, senders) - coordinates.index_select(0, receivers)
    return Edges(senders, receivers, vectors, embed("edges", edges, steps, dtype), known)


def steps_between(adj_mat: Tensor, layout: Layout, largest: int) -> Int[Tensor, "structures columns columns"]:
    """Steps between the real points of each structure along the caller's adjacency, in the rows of the table."""
    adj_mat = checks.check_tensor("adj_mat", adj_mat)
    if adj_mat.ndim == 2:
        adj_mat = adj_mat.expand(layout.structures, *adj_mat.shape)
    size = (*layout.size, layout.size[1])
    checks.check_shape("adj_mat", adj_mat, size, "(batch, points, points), or (points, points)")
    if layout.table.columns == 0:
        return torch.zeros(layout.structures, 0, 0, dtype=torch.long, device=adj_mat.device)
    if layout.flat is not None:
        column, real = layout.table.spread(layout.name), layout.table.mask
        import einx  # here, since importing it takes about a second

        get_at = einx.get_at  # pyright: ignore[reportPrivateImportUsage]
        adj_mat = get_at("b [i j], b p, b q -> b p q", adj_mat, column, column)
        if real is not None:
            adj_mat = adj_mat.masked_fill(~(real[:, :, None] & real[:, None]), 0)
    return graph_distances(checks.as_bool("adj_mat", adj_mat), largest)
