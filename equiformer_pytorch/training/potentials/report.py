"""What a run leaves behind: the potential, a table, the learning curve, parity plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equiformer_pytorch.atoms import Potential, StructureDataset
from equiformer_pytorch.base.saved import read_saved, write_saved
from equiformer_pytorch.training.metrics import read_metrics
from equiformer_pytorch.training.options import TrainingOptions
from equiformer_pytorch.training.potentials.errors import Errors
from equiformer_pytorch.training.potentials.plots import plot_learning, plot_parity
from equiformer_pytorch.training.potentials.tables import table
from equiformer_pytorch.version import __version__

POTENTIAL = "potential.pt"


def plain(settings: TrainingOptions) -> dict[str, Any]:
    """Settings as values that a file of weights may hold."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def save(model: Potential, training: Mapping[str, Any], path: Path) -> None:
    """The potential, with how it was trained beside it."""
    model.save(path)
    write_saved({**read_saved(path), "training": {"version": __version__, **training}}, path)


def write_report(
    folder: Path,
    model: Potential,
    tests: Mapping[str, StructureDataset],
    evaluate: Callable[[Potential, StructureDataset], Errors],
    figure_of_merit: str,
    training: Mapping[str, Any],
) -> None:
    """Saves the potential, evaluates it, prints the table, and writes it and the plots."""
    metrics = read_metrics(folder / "metrics.csv")
    steps = int(metrics[-1]["step"]) if metrics else 0
    save(model, {**training, "steps": steps}, folder / POTENTIAL)
    found = {name: evaluate(model, structures) for name, structures in tests.items()}
    text = table(found)
    print(f"\n{text}\n")
    (folder / "evaluation.txt").write_text(text + "\n", encoding="utf-8")
    plot_parity(found, folder / "parity.png")
    plot_learning(metrics, figure_of_merit, folder / "learning.png")
    print(f"the potential (for EquiformerCalculator), plots and metrics are in {folder}")
