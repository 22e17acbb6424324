"""Mixtures of linear experts: maps whose matrices are mixed, for each structure, from those of several experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiformer_pytorch.base.tracing import exporting, plain
from equiformer_pytorch.published.escn_md.system import atoms_of
from equiformer_pytorch.published.linear import init_linear

# What is added to each coefficient behind the softmax.
LEAST = 0.005
# (group, first edge, end): edges that follow each other, of structures that mix alike.
Segment = tuple[int, int, int]
# The generation of UMA whose mean over atoms counts one atom too many.
ONE_TOO_MANY = "UMA-S-1.2"


@dataclass(frozen=True)
class Mixture:
    """The coefficients of the experts; structures that have the same ones are one group.

    With `frozen` nothing is recorded, and mixed matrices are kept for the next call.
    """

    coefficients: Float[Tensor, "groups experts"]
    group: Int[Tensor, " atoms"]
    edges: int
    segments: list[Segment]
    """Of all edges."""
    frozen: bool

    def segments_of(self, receivers: Int[Tensor, " edges"]) -> list[Segment]:
        """Of some of the edges, those that some atoms receive."""
        return self.segments if receivers.shape[0] == self.edges else segments(self.group, receivers)


def segments(group: Int[Tensor, " atoms"], receivers: Int[Tensor, " edges"]) -> list[Segment]:
    """Of edges that are sorted by receiver, and thereby by structure."""
    found = torch.unique_consecutive(plain(group)[plain(receivers)], return_counts=True)
    ends = torch.stack((*found, found[1].cumsum(0))).T.tolist()  # one wait for a device
    return [(number, end - count, end) for number, count, end in ends]


class Router(nn.Module):
    r"""Coefficients of the experts from the composition and the vector s of a structure,

    .. math:: c = \mathrm{softmax}\,\mathrm{MLP}\bigl[\tfrac1n \sum_i e_{Z_i}, s\bigr] + 0.005,

    or with ``pnorm`` proportional to |MLP| + 2/structures, which sum to one. (Wood et al. 2025, UMA, section 3;
    fairchem 2.24, ``uma/escn_moe.py``. The sum of the first is 1 + 0.005·experts, as published.)

    It has no parameters of its own: these stand where fairchem's files have them, beside the layers.

    Args:
        norm: "softmax" or "pnorm", whose coefficients depend on what else is in the batch.
        dropout: of what goes into the norm; composition_dropout: of atoms in the mean; in training.
        model_id: one generation divides by one atom too many.
    """

    def __init__(self, norm: str, dropout: float, composition_dropout: float, model_id: str | None) -> None:
        super().__init__()
        self.norm, self.dropout, self.composition_dropout = norm, dropout, composition_dropout
        self.more_atoms = int(model_id == ONE_TOO_MANY)

    def forward(
        self,
        network: nn.Module,
        elements: nn.Embedding | None,
        numbers: Int[Tensor, " atoms"],
        batch: Int[Tensor, " atoms"],
        system: Float[Tensor, "structures channels"],
    ) -> Float[Tensor, "structures experts"]:
        found = system
        if elements is not None:
            found = torch.cat((self._composition(elements, numbers, batch, system), system), dim=1)
        found = F.dropout(network(found), self.dropout, self.training)
        if self.norm == "softmax":
            return found.softmax(1) + LEAST
        return F.normalize(found.abs() + 2 / found.shape[0], p=1.0, dim=1)

    def _composition(
        self, elements: nn.Embedding, numbers: Tensor, batch: Tensor, system: Tensor
    ) -> Float[Tensor, "structures channels"]:
        if self.training and self.composition_dropout > 0:
            kept = torch.rand(batch.shape, device=batch.device) > self.composition_dropout
            numbers, batch = numbers[kept], batch[kept]
        sums = system.new_zeros(system.shape).index_add(0, batch, elements(numbers))
        return sums / (atoms_of(batch, system.shape[0], system.dtype) + self.more_atoms)[:, None]


def routing_network(channels: int, experts: int) -> nn.Sequential:
    """Three linear maps with SiLU behind each."""
    return nn.Sequential(
        nn.Linear(channels, 2 * experts),
        nn.SiLU(),
        nn.Linear(2 * experts, 2 * experts),
        nn.SiLU(),
        nn.Linear(2 * experts, experts),
        nn.SiLU(),
    )


def mixture_of(
    coefficients: Float[Tensor, "structures experts"],
    batch: Int[Tensor, " atoms"],
    receivers: Int[Tensor, " edges"],
    frozen: bool,
) -> Mixture:
    """Groups of structures that mix alike, where nothing is recorded; else each is one.

    Raises:
        ValueError: a program is exported that is to mix experts, whose number of structures nobody knows.
    """
    if exporting():
        raise ValueError("a mixture of experts cannot be exported: export model.merged(…) of one composition")
    edges, group = receivers.shape[0], batch
    if frozen and coefficients.shape[0] > 1:
        coefficients, of_structure = torch.unique(coefficients, dim=0, return_inverse=True)
        group = of_structure.index_select(0, batch)
    alike = coefficients.shape[0] == 1
    return Mixture(coefficients, group, edges, [(0, 0, edges)] if alike else segments(group, receivers), frozen)


class Experts(nn.Module):
    """The matrices of one linear map, one of each expert, and a bias that they share."""

    def __init__(self, experts: int, channels_in: int, channels_out: int, *, bias: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(experts, channels_out, channels_in))
        init_linear(self.weights, normal=False)
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        self._kept: tuple[Any, ...] | None = None

    def mixed(self, mixture: Mixture) -> Float[Tensor, "groups out channels"]:
        """Of each group the sum of the experts' matrices, each times its coefficient."""
        if not mixture.frozen:
            return self.of(mixture.coefficients)
        weights, coefficients = self.weights.detach(), mixture.coefficients.detach()
        if weights.is_inference():  # which says nothing of being changed
            return self.of(coefficients)
        stamp = (weights.data_ptr(), self.weights._version, weights.dtype, weights.device)
        if self._kept is not None and self._kept[0] == stamp and torch.equal(self._kept[1], coefficients):
            return self._kept[2]
        self._kept = stamp, coefficients, _mix(weights, coefficients)
        return self._kept[2]

    def of(self, coefficients: Float[Tensor, "groups experts"]) -> Float[Tensor, "groups out channels"]:
        """The same, of any coefficients."""
        return _mix(self.weights, coefficients)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was mixed."""
        return {**self.__dict__, "_kept": None}


def _mix(weights: Tensor, coefficients: Tensor) -> Tensor:
    return (coefficients @ weights.flatten(1)).unflatten(1, weights.shape[1:])
