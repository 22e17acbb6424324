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
from equiformer_pytorch.training.potentials.plots import plot_parity
from equiformer_pytorch.training.potentials.predictions import Predictions
from equiformer_pytorch.training.potentials.tables import error_lines, table

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


def evaluate_files(potential: Path, files: Sequence[Path], folder: Path, how: Evaluation) -> str:
    """Writes tables, plots and predictions into `folder`, and returns the tables.

    Raises:
        OSError, ValueError: a file cannot be read, or nothing of it be used.
        ImportError: a package is missing that reads a file.
    """
    model = load_potential(potential)
    device = how.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device=device, dtype=getattr(torch, how.dtype) if how.dtype else None)
    structures = _load(model, files, how)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.xyz").open("w", encoding="utf-8") as file:
        predictions = Predictions(model, structures, how.group, file)
        found = errors(
            model, structures, how.batch_size, most_edges=how.most_edges, workers=how.workers, seen=predictions.write
        )
    tables: dict[str, Rows] = {"element": _by_element(found, predictions)}
    tables |= {"file": _by(predictions.files, found), how.group: _by(predictions.groups, found)}
    text = table({"all": found})
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


def _load(model: Potential, files: Sequence[Path], how: Evaluation) -> StructureDataset:
    """Lazily: predictions are written beside what the records hold, so these are read again anyway."""
    structures = load_structures(
        list(files),
        model.cutoff,
        max_neighbors=model.max_neighbors,
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
    return structures.with_items(structures.items.only_of(model.elements))


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
    return {"mae": compared.mae, "rmse": compared.rmse, "structures": compared.structures, "size": compared.size}
