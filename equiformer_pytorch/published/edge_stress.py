"""The stress that is read out of edges: fairchem's ``rank2_symmetric_head``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from equiformer_pytorch.base.arguments import check_fields, count, flag, positive
from equiformer_pytorch.base.checks import check_type
from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.graph.edges import EdgeGraph
from equiformer_pytorch.ops.pieces import over_receivers
from equiformer_pytorch.ops.recompute import recomputed
from equiformer_pytorch.published.heads import mean_of_structures, symmetric_tensors
from equiformer_pytorch.published.linear import linear
from equiformer_pytorch.so3.rows import components


@dataclass(frozen=True)
class EdgeStressArguments:
    """The options of :class:`EdgeStressHead`, under fairchem's names and with its defaults, checked."""

    decompose: bool = flag(False)
    edge_level_mlp: bool = flag(False)
    num_mlp_layers: int = count(2)
    use_source_target_embedding: bool = flag(False)
    extensive: bool = flag(False)
    avg_num_nodes: float = positive(1.0)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> EdgeStressArguments:
        """From a mapping; TypeError or ValueError, which name the argument, unless it fits."""
        check_type(name, options, Mapping[str, Any], "a mapping of options")
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None


def solid_factors(max_degree: int) -> Float64[Tensor, " degrees"]:
    """What makes rows of Wigner matrices of order 0 spherical harmonics whose squares integrate to one."""
    return ((2 * torch.arange(max_degree + 1, dtype=torch.float64) + 1) / (4 * math.pi)).sqrt()


class EdgeStressHead(ExactConstants):
    r"""Stress of structures from the features :math:`x` at both ends of their edges :math:`r = r\hat r`,

    .. math:: h_{ij} = \mathrm{LN}\Bigl(\sum_{lm} \mathrm{norm}(r^l Y(\hat r))_{lm}\,[x_j, x_i]_{lm}\Bigr), \qquad
        t_i = f\bigl(\langle T(r_{ij})\, h_{ij}\rangle_j\bigr), \qquad σ = \langle t_i\rangle_i,

    with means over neighbours j and atoms i. T are the 9 entries of :math:`r ⊗ r`, or with `decompose`
    :math:`(1, Y_2(\hat r))`, whose t are components of the matrices of :func:`~.heads.symmetric_tensors`; f is one
    network for all entries, or one for the invariant and one for the five.

    As published, f has biases and SiLUs, which act on entries and not on tensors: **the stress turns with the structure
    only as far as that has been learned**, but for its trace with `decompose`, which is invariant.

    Args:
        channels, max_degree: of the features.
        norm: of the harmonics, as one channel.
        given: `edge_level_mlp`: f before the mean over neighbours; `num_mlp_layers`: of f;
            `use_source_target_embedding`: both ends, else the receiver alone; `extensive`: the sum over atoms, with
            `decompose` over `avg_num_nodes`, not the mean.
    """

    def __init__(self, channels: int, max_degree: int, norm: nn.Module, given: EdgeStressArguments) -> None:
        super().__init__()
        self.max_degree, self.given = max_degree, given
        width = channels * (1 + given.use_source_target_embedding)
        self.sphharm_norm, self.xedge_layer_norm = norm, nn.LayerNorm(width)
        # Under the names that files have for them, and how many entries each is for.
        self.entries = {"scalar_MLP": 1, "irrep2_MLP": 5} if given.decompose else {"r2tensor_MLP": 9}
        self.block = nn.ModuleDict({name: _network(width, given.num_mlp_layers) for name in self.entries})
        self.constant("factors", solid_factors, max_degree)
        self.constant("tensors", symmetric_tensors)

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        edges: EdgeGraph,
        distance: Float[Tensor, " edges"],
        batch: Int[Tensor, " atoms"],
        structures: int,
    ) -> Float[Tensor, "structures 9"]:
        """As rows of 3 × 3 matrices.

        Args:
            x: features of the atoms.
            edges: with the rotations of all degrees in one block.
            distance: lengths of the edges, Å.
            batch: the structure of each atom.
            structures: how many there are.
        """
        graph = replace(edges, scalars=distance[:, None])
        width = components(self.max_degree) * x.shape[2]
        parts = over_receivers(lambda piece: self._of_edges(x, piece), graph, width, x.shape[0])
        if not self.given.edge_level_mlp:
            parts = [network(part) for network, part in zip(self.block.values(), parts, strict=True)]
        of_atoms = torch.cat(list(parts), dim=1).squeeze(-1)
        if self.given.extensive:
            found = of_atoms.new_zeros(structures, of_atoms.shape[1]).index_add(0, batch, of_atoms)
            found = found / self.given.avg_num_nodes if self.given.decompose else found
        else:
            found = mean_of_structures(of_atoms, batch, structures)
        return found @ self._matrices(found.dtype) if self.given.decompose else found

    def _matrices(self, dtype: torch.dtype) -> Float[Tensor, "six nine"]:
        """The isotropic one, and those without trace."""
        tensors = self.cast("tensors", dtype)
        return torch.cat((tensors[:1], tensors[4:]))

    def _of_edges(self, x: Float[Tensor, "atoms components channels"], edges: EdgeGraph) -> tuple[Tensor, ...]:
        """For each network, the means over neighbours of what it is given, or of what it gives."""
        distance = edges.scalars
        rows, factors = edges.rotation.blocks[0][:, : self.max_degree + 1], self.cast("factors", distance.dtype)
        degrees = torch.arange(self.max_degree + 1, device=distance.device)
        solid = ((factors * distance**degrees).to(rows.dtype)[:, None] @ rows).squeeze(1)
        weights = self.sphharm_norm(solid[:, :, None]).squeeze(-1)

        def contracted(x: Tensor, weights: Tensor) -> Tensor:
            ends = [edges.senders] * self.given.use_source_target_embedding + [edges.receiver_points]
            return torch.cat([(weights[:, None] @ x.index_select(0, end)).squeeze(1) for end in ends], dim=1)

        features = self.xedge_layer_norm(recomputed(contracted, x, weights))
        second = (factors[2] * rows[:, 2, 4:9]).to(features.dtype)
        ones = torch.ones_like(second[:, :1])
        bases = (ones, second) if self.given.decompose else (self._squares(distance, second),)
        counts = edges.sum_receivers(ones).clamp(min=1)[:, None]

        def given(basis: Tensor, features: Tensor) -> Tensor:
            return basis[:, :, None] * features[:, None]

        if self.given.edge_level_mlp:
            values = [
                network(given(basis, features)) for network, basis in zip(self.block.values(), bases, strict=True)
            ]
            return tuple(edges.sum_receivers(value) / counts for value in values)
        return tuple(
            recomputed(lambda basis, features: edges.sum_receivers(given(basis, features)), basis, features) / counts
            for basis in bases
        )

    def _squares(
        self, distance: Float[Tensor, "edges 1"], second: Float[Tensor, "edges 5"]
    ) -> Float[Tensor, "edges 9"]:
        """r ⊗ r, from r and :math:`Y_2(\\hat r)`."""
        isotropic = torch.full_like(second[:, :1], 3**-0.5)
        parts = torch.cat((isotropic, second * (8 * math.pi / 15) ** 0.5), dim=1)
        return (parts @ self._matrices(parts.dtype)) * distance.square().to(parts.dtype)


def _network(width: int, layers: int) -> nn.Sequential:
    """Linear maps with SiLU between them."""
    inner = [module for _ in range(layers - 1) for module in (linear(width, width), nn.SiLU())]
    return nn.Sequential(*inner, linear(width, 1))
