"""Errors of a potential on structures with known labels; of each label, of the structures that have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from equiformer_pytorch.atoms import Potential, StructureDataset
from equiformer_pytorch.atoms.committee import STD, mean_and_spread
from equiformer_pytorch.training.potentials.batches import in_order
from equiformer_pytorch.training.potentials.loss import outputs

UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


@dataclass(frozen=True)
class Compared:
    """Predicted and true values of one label: a row for each structure, or for each atom."""

    predicted: Float64[Tensor, "rows ..."]
    true: Float64[Tensor, "rows ..."]
    structure: Int[Tensor, " rows"]
    """The place of the structure in the data set."""
    element: Int[Tensor, " rows"]
    """The atomic number of the atom; 0 for what belongs to a structure."""
    spread: Float64[Tensor, "rows ..."] | None = None
    """Of a committee, whose mean is `predicted`: the standard deviation over its members."""

    @property
    def mae(self) -> float | None:
        """Mean absolute error of the components; None where nothing has the label."""
        return (self.predicted - self.true).abs().mean().item() if len(self.true) else None

    @property
    def rmse(self) -> float | None:
        """Root mean square error of the components."""
        return (self.predicted - self.true).square().mean().sqrt().item() if len(self.true) else None

    @property
    def rms_spread(self) -> float | None:
        """Root mean square spread of the components; None also where there is no committee."""
        return self.spread.square().mean().sqrt().item() if self.spread is not None and len(self.true) else None

    @property
    def by_row(self) -> tuple[Float64[Tensor, " rows"], Float64[Tensor, " rows"]]:
        """Root mean squares over the components of each row: of the error, and of a committee's spread."""
        if self.spread is None:
            raise ValueError("these are errors of one potential: there is no spread")
        both = ((self.predicted - self.true).reshape(len(self.true), -1), self.spread.reshape(len(self.true), -1))
        return both[0].square().mean(1).sqrt(), both[1].square().mean(1).sqrt()

    @property
    def rank_correlation(self) -> float | None:
        """Of the rows' spreads with their errors (Spearman's): 1 where the spread puts errors in their order, 0 where
        it says nothing of them. None with less than three rows, or without a committee."""
        if self.spread is None or len(self.true) < 3:
            return None
        ranks = torch.stack([x.argsort().argsort().double() for x in self.by_row])
        return torch.corrcoef(ranks)[0, 1].item()

    @property
    def size(self) -> float | None:
        """Mean length of the true vectors, or size of the true numbers; None also where that is nothing."""
        if not len(self.true):
            return None
        size = self.true.flatten(1).norm(dim=1).mean().item() if self.true.ndim > 1 else self.true.abs().mean().item()
        return size if size > 0 else None

    @property
    def structures(self) -> int:
        """How many structures have the label."""
        return len(self.structure.unique())

    def only(self, rows: Bool[Tensor, " rows"]) -> Compared:
        """Some of the rows."""
        spread = None if self.spread is None else self.spread[rows]
        return Compared(self.predicted[rows], self.true[rows], self.structure[rows], self.element[rows], spread)


@dataclass(frozen=True)
class Errors:
    """What was compared, by label: `energy` in eV per atom, beyond the reference energies of the atoms, `forces` in
    eV/Å, `stress` in eV/Å³, and targets as they are. Labels that no structure has are not there."""

    compared: Mapping[str, Compared]
    structures: int
    """How many there were."""
    damaged: int
    """How many records could not be used."""

    @property
    def force_mae(self) -> float | None:
        """Mean absolute error of the components, eV/Å."""
        return self.compared["forces"].mae if "forces" in self.compared else None

    @property
    def force_rmse(self) -> float | None:
        """Root mean square error of the components, eV/Å."""
        return self.compared["forces"].rmse if "forces" in self.compared else None

    @property
    def energy_mae(self) -> float | None:
        """eV per atom."""
        return self.compared["energy"].mae if "energy" in self.compared else None

    @property
    def energy_rmse(self) -> float | None:
        """eV per atom."""
        return self.compared["energy"].rmse if "energy" in self.compared else None

    @property
    def stress_mae(self) -> float | None:
        """Mean absolute error of the components, eV/Å³."""
        return self.compared["stress"].mae if "stress" in self.compared else None

    @property
    def score(self) -> tuple[str, float]:
        """What a run is judged by, the smaller the better, in eV and Å, and its name: the first error there is."""
        for name, compared in self.compared.items():
            if compared.rmse is not None:
                return f"{name} RMSE / {UNITS.get(name, '1').removeprefix('m')}", compared.rmse
        raise ValueError("structures is without labels: nothing to compare with")


Seen = Callable[[list[int], Mapping[str, Tensor], Mapping[str, Tensor]], None]
"""Is told the places of structures in their data set, the batch that they are, and what a model gives of it."""


def errors(
    model: Potential,
    structures: StructureDataset,
    batch_size: int = 16,
    *,
    others: Sequence[Potential] = (),
    most_edges: int | None = None,
    workers: int = 0,
    seen: Seen | None = None,
) -> Errors:
    """Of all structures but those whose record is damaged; with `seen`, which is told of each batch, forces and stress
    are computed also where there is nothing to compare them with. With `others`, which must see as the model does, of
    the mean of all."""
    committee = (model, *others)
    device = next(model.parameters()).device
    of_element = model.element_energies().to(device)
    parts: dict[str, list[tuple[Tensor, ...]]] = {}
    gives = frozenset.intersection(*(member.gives for member in committee))
    labels = ("forces", "energy", "stress", *model.targets)
    per_atom = {"forces", *(name for name, target in model.targets.items() if target.per == "atom")}
    count = 0
    for places, batch in in_order(structures, batch_size, most_edges=most_edges, workers=workers):
        count += len(places)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        there = [name for name in labels if name in batch and name in gives]
        computed = there if seen is None else [name for name in labels if name in gives]
        wanted = {name: name in computed for name in ("forces", "stress")}
        with torch.no_grad():
            out = mean_and_spread([outputs(member, batch, **wanted) for member in committee])
        if seen is not None:
            seen(places, batch, out)
        atoms = torch.bincount(batch["batch"], minlength=len(places))
        reference = torch.zeros_like(out["energy"]).index_add(0, batch["batch"], of_element[batch["atomic_numbers"]])
        number = torch.tensor(places, device=device)
        for name in there:
            found, true, has, spread = out[name], batch[name], batch[f"has_{name}"], out.get(name + STD)
            structure, element = number, torch.zeros_like(number)
            if name == "energy":
                found, true = ((energy - reference) / atoms for energy in (found, true))
                spread = None if spread is None else spread / atoms
            if name in per_atom:
                has, structure, element = has[batch["batch"]], number[batch["batch"]], batch["atomic_numbers"]
            rows = (found[has], true.double()[has], structure[has], element[has])
            rows += () if spread is None else (spread[has],)
            parts.setdefault(name, []).append(tuple(tensor.cpu() for tensor in rows))
    compared = {
        name: Compared(*(torch.cat(column) for column in zip(*parts[name], strict=True)))
        for name in labels
        if any(len(rows[0]) for rows in parts.get(name, ()))
    }
    return Errors(compared, count, len(structures) - count)
