"""What a run leaves behind for people: a table, two plots, PDB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from equiformer_pytorch.training.metrics import read_metrics
from examples.denoising import evaluate
from examples.denoising.data import ATOMS, BREAK, Backbone, fixed_noise, residue_type

THREE_LETTERS = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS",
    "L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER", "T": "THR", "V": "VAL",
    "W": "TRP", "Y": "TYR", "X": "UNK",
}  # fmt: skip


def pdb_text(chain: Backbone, coords: Tensor, title: str) -> str:
    """The points that are there as a PDB file (format 3.3), chain A, residues numbered from 1."""
    lines = [f"TITLE     {title}"]
    serial, residue, number = 0, "UNK", 0
    for token, position, there, (x, y, z) in zip(
        chain.tokens.tolist(), chain.positions.tolist(), chain.mask.tolist(), coords.tolist(), strict=True
    ):
        if not there:
            continue
        serial += 1
        atom = ATOMS[token % len(ATOMS)]
        residue = THREE_LETTERS[residue_type(token)]
        number = position // len(ATOMS) % BREAK + 1
        lines.append(
            f"ATOM  {serial:5d}  {atom:<3s} {residue} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
            f"          {atom[0]:>2s}"
        )
    lines += [f"TER   {serial + 1:5d}      {residue} A{number:4d}", "END"]
    return "\n".join(f"{line:<80s}" for line in lines) + "\n"


def plot_losses(metrics: list[dict[str, str]], baselines: dict[str, float], path: Path) -> None:
    """Training and validation loss over the steps, with the baselines as lines."""
    steps = np.array([int(row["step"]) for row in metrics])
    train = np.array([float(row["train"]) for row in metrics])
    valid = [(int(row["step"]), float(row["valid"])) for row in metrics if row["valid"]]
    window = max(len(train) // 40, 1)
    smooth = np.convolve(train, np.ones(window) / window, mode="valid")

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, train, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(
        steps[window - 1 :],
        smooth,
        color="tab:blue",
        label="training loss, of all networks" + (f", mean of {window} steps" if window > 1 else ""),
    )
    if valid:
        axes.plot(*zip(*valid, strict=True), "o-", color="tab:orange", label="validation chains, averaged weights")
    for (name, value), style in zip(baselines.items(), (":", "--"), strict=True):
        axes.axhline(value, color="grey", linestyle=style, linewidth=1)
        axes.annotate(
            f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"), xytext=(-4, 3),
            textcoords="offset points", ha="right", color="dimgrey", fontsize=9,
        )  # fmt: skip
    axes.set_yscale("log")
    ticks = [tick for tick in (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0) if tick >= 0.8 * train.min()]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="step", ylabel="share of the noise's variance left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.88))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _draw_chain(axes: Axes, chain: Backbone, points: np.ndarray, colour: str | None = None) -> None:
    """The bonds of one chain, near ones thicker and over far ones, coloured from the first to the last if not given."""
    there = chain.mask.numpy()
    bonded = there[1:] & there[:-1] & (chain.positions.diff().numpy() == 1)
    segments = np.stack([points[:-1], points[1:]], 1)[bonded]
    if not len(segments):
        return  # of CA alone, say
    depth = segments[:, :, 2].mean(1)
    order = depth.argsort()
    width = 1.0 + 2.0 * (depth - depth.min()) / max(np.ptp(depth), 1e-6)
    colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(bonded)))[bonded][order] if colour is None else colour
    axes.add_collection(
        LineCollection(list(segments[order, :, :2]), colors=colours, linewidths=width[order], capstyle="round")
    )


def plot_backbones(chain: Backbone, panels: dict[str, Tensor], path: Path) -> None:
    """Panels side by side, seen from where the true chain, grey behind each, is widest."""
    true = chain.coords.numpy()
    points = true[chain.mask.numpy()]
    _, _, view = np.linalg.svd(points, full_matrices=len(points) < 3)  # three axes, also of two points
    turned = {title: coords.numpy() @ view.T for title, coords in panels.items()}
    limit = 1.05 * np.max([np.abs(points[chain.mask.numpy()]).max(0) for points in turned.values()], axis=0)
    figure = Figure(figsize=(4 * len(panels), 0.6 + 4 * limit[1] / limit[0]), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)
    for axes, (title, points) in zip(all_axes[0], turned.items(), strict=True):
        _draw_chain(axes, chain, true @ view.T, colour="lightgrey")
        _draw_chain(axes, chain, points)
        axes.set_title(title, fontsize=11)
        axes.set_aspect("equal")
        axes.set(xlim=(-limit[0], limit[0]), ylim=(-limit[1], limit[1]))
        axes.axis("off")
    figure.savefig(path, dpi=150)


def _table(scores: dict[str, evaluate.Score], geometries: dict[str, dict[str, tuple[float, float]]]) -> str:
    lines = [f"{'':34s}variance left    RMSD / Å"]
    lines += [f"{name:34s}{score.variance_left:13.3f}{score.rmsd:12.2f}" for name, score in scores.items()]
    lines += ["", f"{'mean ± standard deviation':34s}" + "".join(f"{name:>17s}" for name in geometries)]
    for quantity in (*evaluate.BONDS, *evaluate.ANGLES):
        unit, digits = ("Å", 3) if quantity in evaluate.BONDS else ("°", 1)
        cells = (
            f"{mean:.{digits}f} ± {spread:.{digits}f}" for mean, spread in (g[quantity] for g in geometries.values())
        )
        lines.append(f"{f'{quantity} / {unit}':34s}" + "".join(f"{cell:>17s}" for cell in cells))
    return "\n".join(lines)


def write_report(
    folder: Path, model: evaluate.Predictor, linear: evaluate.Predictor, test: list[Backbone], noise: float
) -> None:
    """Evaluates on `test`, prints the table, and writes it, the plots and the first chain's PDB files."""
    predictors = {
        "nothing done": evaluate.predict_nothing,
        "linear, ±3 atoms along the chain": linear,
        "Equiformer, averaged weights": model,
    }
    scores = {name: evaluate.score(predictor, test, noise) for name, predictor in predictors.items()}
    noised = [chain.coords + fixed_noise(chain, noise) for chain in test]
    denoised = [coords + model(chain, coords) for chain, coords in zip(test, noised, strict=True)]
    stages = {"before": noised, "after": denoised, "true": [chain.coords for chain in test]}
    geometries = {name: evaluate.geometry(test, coords) for name, coords in stages.items()}

    table = _table(scores, geometries)
    names = ", ".join(chain.name for chain in test)
    text = f"\nHeld-out chains {names}; noise of {noise:g} Å per coordinate\n\n{table}\n"
    print(text)
    (folder / "evaluation.txt").write_text(text.lstrip())

    example = test[0]
    file_name = example.name.replace("/", "-")
    panels = {}
    for name, coords in stages.items():
        first = coords[0]
        (folder / f"{file_name}-{name}.pdb").write_text(pdb_text(example, first, f"{example.name} {name}"))
        distance = evaluate.rmsd(first[example.mask], example.coords[example.mask])
        panels[f"{example.name}, {name}" + ("" if name == "true" else f": {distance:.2f} Å RMSD")] = first
    plot_backbones(example, panels, folder / "backbone.png")
    left = [score.variance_left for score in scores.values()]
    baselines = {"nothing done": left[0], "linear": left[1]}
    plot_losses(read_metrics(folder / "metrics.csv"), baselines, folder / "loss.png")
    print(f"plots, PDB files and metrics are in {folder}")
