"""Measuring processes: their own interpreter, one thread, one side's package first on the module path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(module: str, side: Path, job: dict[str, Any], python: str = sys.executable) -> list[Any]:
    """What ``python -m MODULE SIDE JOB`` prints, one JSON value per line, run by `python`."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CACHE_PATH": str(Path(tempfile.gettempdir()) / "published-basis-cache"),
        "PYTHONWARNINGS": "ignore",
    }
    command = [python, "-m", module, str(side), json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} failed for {job}:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class Place:
    """Where a side runs: its interpreter, and what comes first on its path."""

    python: Path
    path: Path | None
    packages: tuple[str, ...]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Its interpreter, in a folder of its own."""
        path = os.pathsep.join(map(str, ([] if self.path is None else [self.path]) + [ROOT]))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with tempfile.TemporaryDirectory() as folder:
            command = [str(self.python), *words]
            return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    def versions(self) -> dict[str, str]:
        """Of torch and of what the side is."""
        code = (
            "import json, sys; from importlib.metadata import version; "
            "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        )
        done = self.run("-c", code, "torch", *self.packages)
        if done.returncode:
            raise SystemExit(f"{self.python} has not all of {', '.join(self.packages)}:\n{done.stderr[-500:]}")
        return json.loads(done.stdout)
