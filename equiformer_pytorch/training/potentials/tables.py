"""Errors as text: a row for each set of structures, element or group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from equiformer_pytorch.training.potentials.errors import UNITS, Compared, Errors

NAMES = {"test": "held-out geometries", "test_molecules": "held-out molecules", "valid": "validation"}
# What is shown in which order, and with how many decimals.
KNOWN = {"forces": (1, "/ mean |F|"), "energy": (2, None), "stress": (3, None)}


def table(found: Mapping[str, Errors]) -> str:
    """Errors on every test set, and how many structures had each label."""
    rows = {NAMES.get(name, name): errors.compared for name, errors in found.items()}
    lines = [*error_lines(rows), ""]
    for name, errors in found.items():
        labels = [f"{compared.structures} with {label}" for label, compared in errors.compared.items()]
        damaged = f"; {errors.damaged} that could not be used" if errors.damaged else ""
        said = ", ".join(labels) or "none with a label"
        lines.append(f"{NAMES.get(name, name)}: {errors.structures} structures, {said}{damaged}")
    return "\n".join(lines)


def error_lines(rows: Mapping[str, Mapping[str, Compared]]) -> list[str]:
    """A table with a header of two lines; a label has its columns where any row has it."""
    labels = sorted({label for row in rows.values() for label in row}, key=lambda label: _place(label))
    width = max([24, *(len(name) + 2 for name in rows)])
    first, second = " " * width, " " * width
    for label in labels:
        share = KNOWN.get(label, (0, None))[1]
        heads = ["MAE", "RMSE", *(["spread"] if _has_spread(rows, label) else []), *([share] if share else [])]
        unit = UNITS.get(label)
        columns = "".join(f"{head:>{12 if head.startswith('/') else 11}s}" for head in heads)
        first += f"{f'{label} / {unit}' if unit else label:>{len(columns)}s}"
        second += columns
    lines = [first, second]
    for name, row in rows.items():
        cells = [_cells(label, row.get(label), _has_spread(rows, label)) for label in labels]
        lines.append(f"{name:{width}s}" + "".join(cells))
    return lines


def spread_lines(found: Errors) -> list[str]:
    """How far the spread of a committee tells its errors: their rank correlation, and what the tenth of the rows with
    the largest spread have of all squared errors."""
    lines = []
    for label, compared in found.compared.items():
        correlation = compared.rank_correlation
        if correlation is None:
            continue
        off, spread = compared.by_row
        widest = off[spread.argsort(descending=True)[: max(1, round(len(off) / 10))]]
        share = (widest.square().sum() / off.square().sum().clamp(min=1e-300)).item()
        lines.append(
            f"{label}: rank correlation of spread and error {correlation:.2f}; the tenth with the largest spread has"
            f" {100 * share:.0f} % of the squared errors"
        )
    return lines


def _has_spread(rows: Mapping[str, Mapping[str, Compared]], label: str) -> bool:
    return any(label in row and row[label].spread is not None for row in rows.values())


def _place(label: str) -> tuple[int, str]:
    known: Sequence[str] = tuple(KNOWN)
    return (known.index(label), "") if label in known else (len(known), label)


def _cells(label: str, compared: Compared | None, with_spread: bool) -> str:
    """The figures of one label; a dash where there are none."""
    decimals, share = KNOWN.get(label, (4, None))
    mae, rmse, size = (compared.mae, compared.rmse, compared.size) if compared is not None else (None, None, None)
    scale = 1e3 if label in UNITS else 1.0
    shown = [mae, rmse, *([None if compared is None else compared.rms_spread] if with_spread else [])]
    cells = "".join(f"{'–' if value is None else f'{scale * value:.{decimals}f}':>11s}" for value in shown)
    if share:
        cells += f"{'–' if mae is None or size is None else f'{100 * mae / size:.1f} %':>12s}"
    return cells
