"""Pictures of a run: the learning curve, and predicted beside true values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equiformer_pytorch.training.potentials.errors import UNITS, Compared, Errors
from equiformer_pytorch.training.potentials.tables import NAMES

AXES = {
    "forces": "force component / eV Å⁻¹",
    "energy": "energy − references / eV atom⁻¹",
    "stress": "stress component / eV Å⁻³",
}


def plot_learning(metrics: list[dict[str, str]], figure_of_merit: str, path: Path) -> None:
    """Loss of the batches, and what was validated, over the steps."""
    steps = np.array([int(row["step"]) for row in metrics])
    train = np.array([float(row["train"]) for row in metrics])
    valid = [(int(row["step"]), float(row["valid"])) for row in metrics if row["valid"]]
    window = max(len(train) // 40, 1)
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, train, color="tab:blue", alpha=0.25, linewidth=0.8)
    left.plot(steps[window - 1 :], np.convolve(train, np.ones(window) / window, mode="valid"), color="tab:blue")
    left.set(xlabel="step", ylabel="training loss")
    if valid:
        right.plot(*zip(*valid, strict=True), "o-", color="tab:orange", markersize=3)
    right.set(xlabel="step", ylabel=f"validation {figure_of_merit}")
    for axes, values in ((left, train), (right, np.array([value for _, value in valid]))):
        if len(values) and values.min() > 0:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=True, which="both", color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def plot_parity(found: Mapping[str, Errors], path: Path) -> None:
    """Predicted against true values, a row for each set and a column for each label."""
    labels = list(dict.fromkeys(label for errors in found.values() for label in errors.compared)) or ["energy"]
    figure = Figure(figsize=(4 * len(labels), 4 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), len(labels), squeeze=False)
    for (name, errors), row in zip(found.items(), rows, strict=True):
        for axes, label in zip(row, labels, strict=True):
            compared = errors.compared.get(label)
            if compared is None:
                axes.axis("off")
                continue
            _parity(axes, label, compared)
            axes.set_title(NAMES.get(name, name))
    figure.savefig(path, dpi=150)


def plot_spread(found: Errors, path: Path) -> None:
    """Of a committee: the error of each structure or atom over the spread of the members, for each label."""
    labels = [label for label, compared in found.compared.items() if compared.spread is not None]
    figure = Figure(figsize=(4 * max(1, len(labels)), 4), layout="constrained")
    for axes, label in zip(figure.subplots(1, max(1, len(labels)), squeeze=False)[0], labels, strict=False):
        off, spread = found.compared[label].by_row
        scale, unit = 1e3 if label in UNITS else 1.0, UNITS.get(label, "")
        seen = (off > 0) & (spread > 0)
        if seen.any():
            ends = [spread[seen].min().item() * scale, spread[seen].max().item() * scale]
            axes.plot(ends, ends, color="0.6", linewidth=0.8)
            axes.loglog(
                scale * spread[seen].numpy(), scale * off[seen].numpy(), ".", color="tab:blue", markersize=3, alpha=0.4
            )
        axes.set(xlabel=f"spread of the committee / {unit}", ylabel=f"error / {unit}", title=label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _parity(axes: Axes, label: str, compared: Compared) -> None:
    true, predicted = compared.true.flatten(), compared.predicted.flatten()
    low, high = min(true.min(), predicted.min()).item(), max(true.max(), predicted.max()).item()
    axes.plot([low, high], [low, high], color="0.6", linewidth=0.8)
    axes.plot(true.numpy(), predicted.numpy(), ".", color="tab:blue", markersize=2, alpha=0.4)
    what, scale, unit = AXES.get(label, label), 1e3 if label in UNITS else 1.0, UNITS.get(label, "")
    axes.set(xlabel=f"true {what}", ylabel=f"predicted {what}", aspect="equal" if high > low else "auto")
    mae, size = compared.mae, compared.size
    share = f", {100 * mae / size:.1f} % of mean |F|" if label == "forces" and mae is not None and size else ""
    text = f"MAE {scale * (mae or 0.0):.3g} {unit}{share}"
    axes.annotate(text, (0.04, 0.93), xycoords="axes fraction", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
