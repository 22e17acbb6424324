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
        heads = ["MAE", "RMSE", *([share] if (share := KNOWN.get(label, (0, None))[1]) else [])]
        unit = UNITS.get(label)
        columns = "".join(f"{head:>{12 if head.startswith('/') else 11}s}" for head in heads)
        first += f"{f'{label} / {unit}' if unit else label:>{len(columns)}s}"
        second += columns
    lines = [first, second]
    for name, row in rows.items():
        lines.append(f"{name:{width}s}" + "".join(_cells(label, row.get(label)) for label in labels))
    return lines


def _place(label: str) -> tuple[int, str]:
    known: Sequence[str] = tuple(KNOWN)
    return (known.index(label), "") if label in known else (len(known), label)


def _cells(label: str, compared: Compared | None) -> str:
    """The figures of one label; a dash where there are none."""
    decimals, share = KNOWN.get(label, (4, None))
    mae, rmse, size = (compared.mae, compared.rmse, compared.size) if compared is not None else (None, None, None)
    scale = 1e3 if label in UNITS else 1.0
    cells = "".join(f"{'–' if value is None else f'{scale * value:.{decimals}f}':>11s}" for value in (mae, rmse))
    if share:
        cells += f"{'–' if mae is None or size is None else f'{100 * mae / size:.1f} %':>12s}"
    return cells
