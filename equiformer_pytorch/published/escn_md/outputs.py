"""Which head gives which property of which dataset, and under which of fairchem's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equiformer_pytorch.published.escn_md.arguments import ESCNMDArguments, mapping
from equiformer_pytorch.published.escn_md.heads import FORCES, MIXED, SINGLE, STRESS, kind_of

PROPERTIES = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Output:
    """Something that the model gives."""

    name: str
    """As fairchem has it."""
    property: str
    head: str
    dataset: str | None
    """Of which alone it is; None: of all."""
    gradient: bool = False
    """Whether it is the gradient of an energy."""
    masked: bool = False
    """Whether it is zero for structures of other datasets."""


@dataclass(frozen=True)
class Outputs:
    """All that a model gives."""

    all: tuple[Output, ...]

    @classmethod
    def of(cls, heads: Mapping[str, Mapping[str, Any]], given: ESCNMDArguments) -> Outputs:
        """Of configurations of heads by name.

        Raises:
            ValueError: none gives the energy.
        """
        found = [output for name in sorted(heads) for output in _of_head(name, heads[name], given)]
        if not any(output.property == "energy" for output in found):
            raise ValueError(f"heads must have one that gives the energy, got {sorted(heads)}")
        # The name of an only head says nothing of datasets.
        only = [sum(other.property == output.property for other in found) == 1 for output in found]
        return cls(
            tuple(
                replace(o, dataset=None) if alone and not o.masked else o for o, alone in zip(found, only, strict=True)
            )
        )

    @property
    def datasets(self) -> set[str]:
        """Those that have an output of their own."""
        return {output.dataset for output in self.all if output.dataset is not None}

    @property
    def gives(self) -> frozenset[str]:
        """Properties."""
        return frozenset(output.property for output in self.all)

    def find(self, property: str, dataset: str | None, named: str | None) -> Output | None:
        """The output that a task `named` says, else that of the dataset, or of all; None if there is none."""
        of_property = [output for output in self.all if output.property == property]
        for fits in (
            lambda output: output.name == named,
            lambda output: output.dataset is not None and output.dataset == dataset,
            lambda output: output.dataset is None,
        ):
            chosen = [output for output in of_property if fits(output)]
            if chosen:
                return chosen[0]
        return of_property[0] if len(of_property) == 1 else None


def _of_head(name: str, config: Mapping[str, Any], given: ESCNMDArguments) -> list[Output]:
    kind = kind_of(name, config)
    wrapped = kind in (SINGLE, MIXED)
    inner = kind_of(name, config, "head_cls") if wrapped else kind
    options = (config.get("head_kwargs") or {}) if wrapped else config
    properties: Sequence[tuple[str, bool]]
    if inner in (FORCES, STRESS):
        properties = (("forces" if inner == FORCES else "stress", False),)
    elif inner == "MLP_EFS_Head" and not given.direct_forces:
        properties = (("energy", False), ("forces", True), ("stress", True))
    else:
        properties = (("energy", False),)
    prefix = options.get("prefix")
    found = []
    for property, gradient in properties:
        key = f"{prefix}_{property}" if prefix else property
        if wrapped:
            datasets = sorted(
                mapping(f"heads[{name!r}]: dataset", config.get("dataset_names"), config.get("dataset_mapping"))
            )
            found += [Output(f"{d}_{key}", property, name, d, gradient, masked=True) for d in datasets]
            continue
        official = key if given.pass_through_head_outputs or len(properties) > 1 else name
        dataset = official.removesuffix(f"_{property}") if official.endswith(f"_{property}") else None
        found.append(Output(official, property, name, dataset, gradient))
    return found
