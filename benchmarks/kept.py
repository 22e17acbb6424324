"""Finished runs of a benchmark, in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Run = dict[str, Any]
"""What was trained, and what came of it."""


class KeptRuns:
    """A file that is written after each run; a run that it holds is not made again.

    It is read anew each time: another process may write runs of its own into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def runs(self) -> list[Run]:
        """All, in the order in which they ended."""
        return json.loads(self.path.read_text())["runs"] if self.path.exists() else []

    def find(self, what: Run) -> Run | None:
        """The first run of which all this holds."""
        return next((run for run in self.runs if what.items() <= run.items()), None)

    def add(self, run: Run) -> None:
        """One more."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"runs": [*self.runs, run]}, indent=1) + "\n")
        part.replace(self.path)  # whole, for whoever reads it meanwhile
