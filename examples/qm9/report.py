"""What a run leaves behind: the errors, the model, plots."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiformer_pytorch.base.saved import write_saved
from equiformer_pytorch.training.metrics import read_metrics
from equiformer_pytorch.training.potentials.plots import plot_learning
from examples.qm9.model import MoleculeProperty
from examples.qm9.properties import PROPERTIES


def table(name: str, found: Tensor, true: Tensor) -> str:
    """Errors on molecules that were not trained on, beside those of a guess."""
    given = PROPERTIES[name]
    if given.kind == "tensor":
        guess = torch.eye(3, dtype=true.dtype) * true.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        words = "the isotropic mean"
    else:
        guess, words = true.mean(0, keepdim=True), "the mean of all"
    rows = {"Equiformer, averaged weights": found, words: guess}
    errors = {
        row: ((values - true).abs().mean(), (values - true).square().mean().sqrt()) for row, values in rows.items()
    }
    lines = [f"{name} of {len(true)} test molecules, {given.unit}", f"{'':30s}{'MAE':>12s}{'RMSE':>12s}"]
    lines += [f"{row:30s}{mae:12.4g}{rmse:12.4g}" for row, (mae, rmse) in errors.items()]
    (mae, _), (of_guess, _) = errors.values()
    lines.append(f"share of the error of {words}: {mae / of_guess:.4f}")
    return "\n".join(lines)


def write_report(folder: Path, model: MoleculeProperty, name: str, found: Tensor, true: Tensor) -> None:
    """Prints the table, and writes it, the model and the plots."""
    text = table(name, found, true)
    print(f"\n{text}\n")
    (folder / "evaluation.txt").write_text(text + "\n", encoding="utf-8")
    about = {"property": name, "kind": model.kind, "config": model.potential.config}
    write_saved({**about, "state_dict": model.state_dict()}, folder / "model.pt")
    unit = PROPERTIES[name].unit
    plot_learning(read_metrics(folder / "metrics.csv"), f"MAE / {unit}", folder / "learning.png")
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(true.flatten(), found.flatten(), ".", markersize=2, alpha=0.4)
    axes.axline((float(true.mean()), float(true.mean())), slope=1, color="0.6", linewidth=0.8)
    axes.set(xlabel=f"{name} / {unit}", ylabel="predicted", title="test molecules")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "parity.png", dpi=150)
    print(f"the model, plots and metrics are in {folder}")
