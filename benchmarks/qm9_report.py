"""What ``benchmarks/qm9.py`` says of its runs: a table, and learning curves."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from benchmarks.kept import Run
from examples.qm9.properties import PROPERTIES

THOUSANDTHS = {"eV": "meV"}
COLUMNS = 2  # of plots


def groups(runs: list[Run]) -> dict[tuple[str, int, float], dict[str, list[Run]]]:
    """Runs by property, size and budget, and by side."""
    found: dict[tuple[str, int, float], dict[str, list[Run]]] = {}
    for run in runs:
        key = (run["property"], run["train"], run["budget"])
        found.setdefault(key, {}).setdefault(run["name"], []).append(run)
    return found


def unit_of(name: str) -> tuple[str, float]:
    """The unit that errors are given in, and how many of it are one of the property's."""
    unit = PROPERTIES[name].unit
    return (THOUSANDTHS[unit], 1e3) if unit in THOUSANDTHS else (unit, 1.0)


def report(runs: list[Run]) -> str:
    """A table, as Markdown: mean absolute errors on the test molecules, the mean of the seeds and each."""
    lines = [
        "| property | trained on | side | learning rate | steps | MAE | each seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, train, budget), sides in groups(runs).items():
        unit, factor = unit_of(name)
        for side, of_side in sides.items():
            errors = [factor * run["scale"] * mean(run["curve"][-1]["test"]) for run in of_side]
            cells = [f"{name} / {unit}", f"{train}, {budget:.0f} s", side, f"{of_side[0]['lr']:g}"]
            cells += [str(of_side[0]["steps"])]
            cells += [f"{mean(errors):.3g}", ", ".join(f"{one:.3g}" for one in errors)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(runs: list[Run], path: Path) -> None:
    """Errors on the validation molecules over the time that the steps take, the mean of the seeds."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, int], dict[str, list[Run]]] = {}
    for (name, train, budget), sides in groups(runs).items():
        for side, of_side in sides.items():
            panels.setdefault((name, train), {})[f"{side}, {budget:.0f} s"] = of_side
    rows = max(-(-len(panels) // COLUMNS), 1)
    figure = Figure(figsize=(4.5 * COLUMNS, 3.6 * rows), layout="constrained")
    all_axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for ((name, train), lines), axes in zip(panels.items(), all_axes, strict=False):
        unit, factor = unit_of(name)
        for label, of_side in lines.items():
            curves = list(zip(*(run["curve"] for run in of_side), strict=True))
            times = [of_side[0]["budget"] * points[0]["steps"] / of_side[0]["steps"] for points in curves]
            errors = [
                factor * of_side[0]["scale"] * mean(mean(point["valid"]) for point in points) for points in curves
            ]
            axes.semilogy(times, errors, "o-", markersize=3, label=label)
        axes.set(title=f"{name}, {train} molecules", xlabel="seconds of one thread", ylabel=f"validation MAE / {unit}")
        axes.legend(frameon=False, fontsize=8)
    for axes in all_axes:  # those that are left
        axes.set_axis_off()
    figure.savefig(path, dpi=120)
