"""What a run leaves behind for people: the potential, a table, the learning curve, parity plots."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from equiformer_pytorch.atoms import Potential
from equiformer_pytorch.training.metrics import read_metrics
from examples.potential import evaluate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

NAMES = {"test": "held-out geometries", "test_molecules": "held-out molecules"}


def plot_learning(metrics: list[dict[str, str]], path: Path) -> None:
    """Loss of the batches and force error on the validation set over the steps."""
    steps = np.array([int(row["step"]) for row in metrics])
    train = np.array([float(row["train"]) for row in metrics])
    valid = [(int(row["step"]), 1e3 * float(row["valid"])) for row in metrics if row["valid"]]
    window = max(len(train) // 40, 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    left.plot(steps, train, color="tab:blue", alpha=0.25, linewidth=0.8)
    left.plot(steps[window - 1 :], np.convolve(train, np.ones(window) / window, mode="valid"), color="tab:blue")
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    if valid:
        right.plot(*zip(*valid, strict=True), "o-", color="tab:orange", markersize=3)
    right.set(xlabel="step", ylabel="validation force RMSE / meV Å⁻¹", yscale="log")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=True, which="both", color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_parity(found: dict[str, evaluate.Errors], path: Path) -> None:
    """Predicted over true forces and energies, a row for each test set."""
    figure, rows = plt.subplots(len(found), 2, figsize=(8, 4 * len(found)), layout="constrained", squeeze=False)
    for (name, errors), (left, right) in zip(found.items(), rows, strict=True):
        forces = (errors.true_forces.flatten(), errors.forces.flatten())
        energies = (errors.true_energies, errors.energies)
        texts = (
            f"MAE {1e3 * errors.force_mae:.0f} meV/Å, {100 * errors.force_mae / errors.force_size:.1f} % of mean |F|",
            f"MAE {1e3 * errors.energy_mae:.1f} meV/atom",
        )
        labels = ("force component / eV Å⁻¹", "energy − references / eV atom⁻¹")
        for axes, (true, predicted), label, text in zip((left, right), (forces, energies), labels, texts, strict=True):
            low, high = min(true.min(), predicted.min()).item(), max(true.max(), predicted.max()).item()
            axes.plot([low, high], [low, high], color="0.6", linewidth=0.8)
            axes.plot(true, predicted, ".", color="tab:blue", markersize=2, alpha=0.4)
            axes.set(xlabel=f"true {label}", ylabel=f"predicted {label}", title=NAMES.get(name, name), aspect="equal")
            axes.annotate(text, (0.04, 0.93), xycoords="axes fraction", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def table(found: dict[str, evaluate.Errors]) -> str:
    """Errors on every test set."""
    stress = {name: errors.stress_mae for name, errors in found.items() if errors.stress_mae is not None}
    groups, columns = (f"{'stress / meV/Å³':>18s}", f"{'MAE':>18s}") if stress else ("", "")
    lines = [
        f"{'':24s}{'forces / meV/Å':>32s}{'energy / meV/atom':>22s}{groups}",
        f"{'':24s}{'MAE':>10s}{'RMSE':>10s}{'/ mean |F|':>12s}{'MAE':>11s}{'RMSE':>11s}{columns}",
    ]
    for name, errors in found.items():
        lines.append(
            f"{NAMES.get(name, name):24s}{1e3 * errors.force_mae:10.1f}{1e3 * errors.force_rmse:10.1f}"
            f"{100 * errors.force_mae / errors.force_size:10.1f} %{1e3 * errors.energy_mae:11.2f}"
            f"{1e3 * errors.energy_rmse:11.2f}" + (f"{1e3 * stress[name]:18.3f}" if name in stress else "")
        )
    return "\n".join(lines)


def write_report(folder: Path, model: Potential, tests: dict[str, Dataset[dict[str, Tensor]]]) -> None:
    """Saves the potential, evaluates it, prints the table, and writes it and the plots."""
    model.save(folder / "potential.pt")
    found = {name: evaluate.errors(model, dataset) for name, dataset in tests.items()}
    text = table(found)
    print(f"\n{text}\n")
    (folder / "evaluation.txt").write_text(text + "\n")
    plot_parity(found, folder / "parity.png")
    plot_learning(read_metrics(folder / "metrics.csv"), folder / "learning.png")
    print(f"the potential (for EquiformerCalculator), plots and metrics are in {folder}")
