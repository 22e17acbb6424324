"""Merging experts: for structures of one kind a mixture is one network, as small as one without experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import gcd
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch.inputs.structures import Structures
from equiformer_pytorch.published.escn_md.experts import Experts
from equiformer_pytorch.published.escn_md.heads import MIXED, SINGLE, OfDatasets, kind_of
from equiformer_pytorch.published.escn_md.system import Systems

# What only a mixture has.
ROUTING = ("backbone.routing_mlp.", "backbone.composition_embedding.")
# How far coefficients of structures of one kind may be apart: rounding of their sums over atoms.
SAME = 1e-5


@dataclass(frozen=True)
class Kind:
    """Structures of one composition, up to multiples, with the same charge, spin and dataset."""

    composition: Mapping[int, int]
    """Atoms of each element, without a common factor."""
    charge: float
    spin: float
    dataset: str | None

    @classmethod
    def of(cls, structures: Structures, systems: Systems, known: Sequence[str]) -> Kind:
        """That of the first structure."""
        numbers = structures.atomic_numbers[structures.batch == 0]
        elements, counts = numbers.unique(return_counts=True)
        factor = gcd(*counts.tolist())
        composition = {z: n // factor for z, n in zip(elements.tolist(), counts.tolist(), strict=True)}
        dataset = known[int(systems.dataset[0])] if known else None
        return cls(composition, float(systems.charge[0]), float(systems.spin[0]), dataset)

    @classmethod
    def from_plain(cls, held: Mapping[str, Any]) -> Kind:
        """From what :meth:`to_plain` gave."""
        return cls(**{**held, "composition": {int(z): int(n) for z, n in held["composition"].items()}})

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    def check(self, structures: Structures, systems: Systems, known: Sequence[str]) -> None:
        """ValueError unless all structures are of this kind."""
        most = max([*self.composition, int(structures.atomic_numbers.max()) if len(structures.batch) else 0]) + 1
        mine = torch.zeros(most, dtype=torch.long, device=structures.batch.device)
        for number, count in self.composition.items():
            mine[number] = count
        counts = mine.new_zeros(structures.count * most)
        places = structures.batch * most + structures.atomic_numbers
        counts = counts.index_add(0, places, torch.ones_like(places)).view(structures.count, most)
        right = {
            "composition": (counts * mine.sum() == mine * counts.sum(1, keepdim=True)).all(1),
            "charge": systems.charge == self.charge,
            "spin": systems.spin == self.spin,
        }
        if self.dataset is not None:
            right["dataset"] = systems.dataset == known.index(self.dataset)
        wrong = [name for name, each in right.items() if not bool(each.all())]
        if wrong:
            raise ValueError(
                f"{' and '.join(wrong)} must be what experts were merged for, {self.to_plain()}; for other structures"
                " merge the whole network anew, or use it as it is"
            )


def merged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network without experts, in its layers and in its heads."""
    heads = None if config["heads"] is None else {n: _merged_head(n, head) for n, head in config["heads"].items()}
    return {**config, "num_experts": 0, "layers_moe": None, "heads": heads}


def _merged_head(name: str, head: Mapping[str, Any]) -> Mapping[str, Any]:
    if kind_of(name, head) != MIXED:
        return head
    module = str(head["module"]).removesuffix(MIXED) + SINGLE
    names = head["dataset_names"] if head.get("dataset_mapping") is None else sorted(head["dataset_mapping"])
    kept = {key: value for key, value in head.items() if key != "dataset_mapping"}
    return {**kept, "module": module, "dataset_names": list(names)}


def one_row(coefficients: Float[Tensor, "structures experts"]) -> Float[Tensor, "1 experts"]:
    """The coefficients that all structures have.

    Raises:
        ValueError: they differ.
    """
    if bool((coefficients - coefficients[:1]).abs().max() > SAME * coefficients.abs().max()):
        raise ValueError("structures must all have one composition, charge, spin and dataset to merge experts for")
    return coefficients[:1]


def merged_weights(
    model: nn.Module, coefficients: Float[Tensor, "1 experts"] | None, dataset: str | None
) -> dict[str, Tensor]:
    """The state dict with one matrix in place of those of the experts.

    Args:
        coefficients: of the experts of the layers, where there are some.
        dataset: whose expert heads use.
    """
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(ROUTING)}
    chosen: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, OfDatasets) and module.expert and dataset is not None:
            chosen[f"{name}."] = module.expert[dataset]
    for name, module in model.named_modules():
        if not isinstance(module, Experts):
            continue
        expert = next((index for head, index in chosen.items() if name.startswith(head)), None)
        held = weights.pop(f"{name}.weights")
        if expert is not None:
            weights[f"{name}.weight"] = held[expert].clone()
        elif coefficients is not None:
            weights[f"{name}.weight"] = module.of(coefficients)[0].detach()
    return weights
