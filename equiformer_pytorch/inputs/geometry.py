r"""Vectors of edges, and forces and stress from the derivative of the energy by them.

.. math:: r_{ij} = x_j + o_{ij} C - x_i, \qquad F_k = -\sum_{ij} \frac{\partial E}{\partial r_{ij}} (δ_{jk} - δ_{ik}),
    \qquad σ = \frac1V \sum_{ij} \mathrm{sym}\Bigl(r_{ij} ⊗ \frac{\partial E}{\partial r_{ij}}\Bigr).

Differences are taken in float64 and rounded then: so what is far from the origin loses nothing. All of it can be
differentiated again, by positions and cells too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from equiformer_pytorch.base.tracing import check_derivative_can_be_traced, plain, transforming
from equiformer_pytorch.inputs.structures import Structures, volumes


@dataclass(frozen=True)
class Rounded:
    """Edges whose translations along the cell were rounded to float32."""

    within: Float[Tensor, "edges 3"]
    """pos[sender] − pos[receiver]."""
    offsets: Float32[Tensor, "edges 3"]
    cells: Float[Tensor, "edges 3 3"]


@dataclass(frozen=True)
class EdgeGeometry:
    """Vectors of edges, and how they came about if something was rounded."""

    vectors: Float[Tensor, "edges 3"]
    rounded: Rounded | None = None

    def strain_derivative(self, slope: Float[Tensor, "edges 3"]) -> Float[Tensor, "edges 3 3"]:
        """∂E/∂ε of each edge, ε a symmetric strain, from `slope` = ∂E/∂vector."""
        if self.rounded is None:
            outer = self.vectors[:, :, None] * slope[:, None]
        else:
            of_cells = (self.rounded.offsets[:, :, None] * slope.float()[:, None]).to(slope.dtype)
            outer = self.rounded.within[:, :, None] * slope[:, None] + self.rounded.cells.mT @ of_cells
        return (outer + outer.mT) / 2


def edge_geometry(structures: Structures, dtype: torch.dtype) -> EdgeGeometry:
    """The vector of each edge, in `dtype`.

    The official code of the published models rounds offset · cell to float32, whatever the dtype of the positions, and
    in the backward pass what comes back to it. If given frames fit edges rounded like that better, they are.
    """
    senders, receivers = structures.ends()
    pos = structures.pos.double()
    within = pos.index_select(0, senders) - pos.index_select(0, receivers)
    if structures.cell is None or structures.cell_offsets is None:
        return EdgeGeometry(within.to(dtype))
    cells = structures.cell.double().index_select(0, structures.batch.index_select(0, receivers))
    exact = (structures.cell_offsets.double()[:, None] @ cells).squeeze(1)
    if structures.edge_frames is None or dtype != torch.float64:
        return EdgeGeometry((within + exact).to(dtype))
    single = structures.cell_offsets.float()
    rounded = (single[:, None] @ cells.float()).squeeze(1).double()
    if _misfit(structures.edge_frames, within + exact) <= _misfit(structures.edge_frames, within + rounded):
        return EdgeGeometry(within + exact)
    return EdgeGeometry(within + rounded, Rounded(within, single, cells))


def _misfit(frames: Float[Tensor, "edges 3 3"], vectors: Float[Tensor, "edges 3"]) -> float:
    """How far the given frames are from carrying these edges to y."""
    if not vectors.numel():
        return 0.0
    direction = torch.nn.functional.normalize(plain(vectors), dim=-1)
    return float((plain(frames)[..., 1, :] - direction).abs().mean())


def with_slope(
    outputs_of: Callable[[Float[Tensor, "edges 3"]], dict[str, Any]], vectors: Float[Tensor, "edges 3"], recorded: bool
) -> tuple[dict[str, Any], Float[Tensor, "edges 3"]]:
    """``outputs_of(vectors)``, and the derivative of the sum of its ``energy`` by the vectors.

    With `recorded` both can be differentiated. The transforms of ``torch.func`` have no place for
    ``torch.autograd.grad``; and what torch compiles can be differentiated again only where its gradient is a part of
    the compiled graph.

    Raises:
        ValueError: ``torch.export`` traces, which cannot trace a derivative.
    """
    check_derivative_can_be_traced()
    if transforming() or torch.compiler.is_dynamo_compiling():

        def energy(vectors: Tensor) -> tuple[Tensor, dict[str, Any]]:
            outputs = outputs_of(vectors)
            return outputs["energy"].sum(), outputs

        total, pull_back, outputs = torch.func.vjp(energy, vectors, has_aux=True)  # pyright: ignore[reportAssignmentType]
        return outputs, pull_back(torch.ones_like(total))[0]
    with torch.enable_grad():
        vectors = vectors if vectors.requires_grad else vectors.detach().requires_grad_()
        outputs = outputs_of(vectors)
        total = outputs["energy"].sum()
        (slope,) = torch.autograd.grad(total, vectors, create_graph=recorded, materialize_grads=True)
    return outputs, slope


def forces_of(structures: Structures, slope: Float[Tensor, "edges 3"]) -> Float[Tensor, "atoms 3"]:
    """−∂E/∂x from `slope` = ∂E/∂vector, in the caller's order and in the dtype of the positions."""
    senders, receivers = structures.ends()
    found = slope.new_zeros(structures.pos.shape[0], 3).index_add(0, receivers, slope).index_add(0, senders, -slope)
    return structures.restored(found).to(structures.pos.dtype)


def stress_of(
    structures: Structures, geometry: EdgeGeometry, slope: Float[Tensor, "edges 3"]
) -> Float[Tensor, "structures 3 3"]:
    r""":math:`\frac1V ∂E/∂ε` from `slope` = ∂E/∂vector, in the dtype of the positions."""
    of_edge = structures.batch.index_select(0, structures.ends()[1])
    virial = slope.new_zeros(structures.count, 3, 3).index_add(0, of_edge, geometry.strain_derivative(slope))
    return (virial / _volumes(structures)[:, None, None]).to(structures.pos.dtype)


def stresses_of(
    structures: Structures, geometry: EdgeGeometry, slope: Float[Tensor, "edges 3"]
) -> Float[Tensor, "atoms 3 3"]:
    """Parts of :func:`stress_of` that add up to it, half of what an edge gives for each of its ends; in the caller's
    order."""
    halves, zeros = geometry.strain_derivative(slope) / 2, slope.new_zeros(structures.pos.shape[0], 3, 3)
    senders, receivers = structures.ends()
    found = zeros.index_add(0, receivers, halves).index_add(0, senders, halves)
    found = found / _volumes(structures).index_select(0, structures.batch)[:, None, None]
    return structures.restored(found).to(structures.pos.dtype)


def _volumes(structures: Structures) -> Float[Tensor, " structures"]:
    if structures.cell is None:
        raise ValueError("cell is required: this model gives the stress, which is per volume")
    return volumes(structures.cell)
