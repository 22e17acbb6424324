"""Metrics as CSV, one row per step, in step with the checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


class MetricsFile:
    """Appends rows to a CSV file whose first column is the step.

    Args:
        path: of the file.
        columns: their names; the first is "step".
        step: where the run is. Rows beyond are dropped: those of a killed run that its last checkpoint does not cover;
            at 0 the file is begun anew.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        kept = [row for row in read_metrics(path) if int(row["step"]) <= step] if step and path.exists() else []
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(path)
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, columns, restval="")

    def write(self, **row: float) -> None:
        """Append a `row`, values by column; columns that are not given stay empty.

        Raises:
            ValueError: there is no such column.
        """
        self._writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
        self._file.flush()

    def close(self) -> None:
        """Nothing can be written after it."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file; a last row that a kill cut short is left out."""
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
