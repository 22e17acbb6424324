"""A potential beside files with known labels: tables by element and group, plots, predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ase.data import chemical_symbols

from equiformer_pytorch.atoms import Potential, StructureDataset, load_potential, load_structures
from equiformer_pytorch.atoms.dataset import LazyItems
from equiformer_pytorch.training.potentials.errors import Compared, Errors, errors
from equiformer_pytorch.training.potentials.plots import plot_parity, plot_spread
from equiformer_pytorch.training.potentials.predictions import Predictions
from equiformer_pytorch.training.potentials.tables import error_lines, spread_lines, table

Rows = dict[str, dict[str, Compared]]


@dataclass(frozen=True)
class Evaluation:
    """How to read and to compute; see ``equiformer evaluate --help``."""

    keys: Mapping[str, str]
    group: str
    batch_size: int
    most_edges: int | None
    workers: int
    device: str | None
    dtype: str | None


def evaluate_files(potentials: Sequence[Path], files: Sequence[Path], folder: Path, how: Evaluation) -> str:
    """Writes tables, plots and predictions of a potential, or of a committee of several, into `folder`, and returns the
    tables.

    Raises:
        OSError, ValueError: a file cannot be read, or nothing of it be used; or members of a committee do not go
            together.
        ImportError: a package is missing that reads a file.
    """
    members = [load_potential(potential) for potential in potentials]
    _check_committee(members, potentials)
    device = how.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for member in members:
        member.to(device=device, dtype=getattr(torch, how.dtype) if how.dtype else None)
    model, *others = members
    structures = _load(members, files, how)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.xyz").open("w", encoding="utf-8") as file:
        predictions = Predictions(model, structures, how.group, file)
        found = errors(
            model,
            structures,
            how.batch_size,
            others=others,
            most_edges=how.most_edges,
            workers=how.workers,
            seen=predictions.write,
        )
    tables: dict[str, Rows] = {"element": _by_element(found, predictions)}
    tables |= {"file": _by(predictions.files, found), how.group: _by(predictions.groups, found)}
    text = table({"all": found})
    if others:
        text += "\n\n" + "\n".join((f"mean of a committee of {len(members)}", *spread_lines(found)))
        plot_spread(found, folder / "spread.png")
    for title, rows in tables.items():
        if rows and not (title == "file" and len(rows) == 1):
            text += f"\n\nby {title}\n" + "\n".join(error_lines(rows))
    (folder / "evaluation.txt").write_text(text + "\n", encoding="utf-8")
    figures = {
        title: {name: {label: _figures(row[label]) for label in row} for name, row in rows.items()}
        for title, rows in {"all": {"all": dict(found.compared)}, **tables}.items()
    }
    (folder / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    plot_parity({"all": found}, folder / "parity.png")
    return text


def _check_committee(members: Sequence[Potential], files: Sequence[Path]) -> None:
    """All members are given the same edges and inputs, and compared with the same labels."""
    first = members[0]
    for member, file in zip(members[1:], files[1:], strict=True):
        for name in ("cutoff", "max_neighbors", "strict_neighbors", "use_pbc", "inputs", "targets"):
            has, wanted = getattr(member, name), getattr(first, name)
            if has != wanted:
                raise ValueError(f"committee: {file} has {name} {has}, {files[0]} {wanted}; they must be the same")


def _load(members: Sequence[Potential], files: Sequence[Path], how: Evaluation) -> StructureDataset:
    """Lazily: predictions are written beside what the records hold, so these are read again anyway."""
    model = members[0]
    structures = load_structures(
        list(files),
        model.cutoff,
        max_neighbors=model.max_neighbors,
        strict_neighbors=model.strict_neighbors,
        on_error="skip",
        dtype=next(model.parameters()).dtype,
        keys=how.keys,
        targets=model.targets,
        inputs=model.inputs,
        lazy=True,
    )
    if not isinstance(structures.items, LazyItems):
        return structures
    said = structures.items.names()
    if said is not None:
        print(said)
    known = set.intersection(*(set(member.elements) for member in members))
    return structures.with_items(structures.items.only_of(sorted(known), model.use_pbc))


def _of(found: Errors, wanted: Callable[[int], bool]) -> dict[str, Compared]:
    """Of some structures, by place."""
    chosen = {}
    for label, compared in found.compared.items():
        rows = torch.tensor([wanted(place) for place in compared.structure.tolist()])
        if rows.any():
            chosen[label] = compared.only(rows)
    return chosen


def _by(names: Mapping[int, object], found: Errors) -> Rows:
    """A row for each name that structures have."""
    distinct = sorted(set(names.values()), key=str)
    return {str(name): _of(found, lambda place, name=name: names.get(place) == name) for name in distinct}


def _by_element(found: Errors, predictions: Predictions) -> Rows:
    """Of atoms of each element; energies and whatever else belongs to a structure, of structures that have some."""
    rows = {}
    for element in sorted(set().union(*predictions.elements.values())):
        chosen = _of(found, lambda place, element=element: element in predictions.elements[place])
        rows[chemical_symbols[element]] = {
            label: compared.only((compared.element == element) | (compared.element == 0))
            for label, compared in chosen.items()
        }
    return rows


def _figures(compared: Compared) -> dict[str, float | int | None]:
    figures = {"mae": compared.mae, "rmse": compared.rmse, "structures": compared.structures, "size": compared.size}
    if compared.spread is not None:
        figures |= {"spread": compared.rms_spread, "rank_correlation": compared.rank_correlation}
    return figures
