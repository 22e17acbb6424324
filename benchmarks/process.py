"""One measuring process: its own interpreter, one thread, one side's package first on the module path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
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
