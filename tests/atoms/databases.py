"""ASE's databases, of which its own annotations do not say that they are contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.db


def connect(path: Path) -> Any:
    """As `ase.db.connect`."""
    return ase.db.connect(path)
