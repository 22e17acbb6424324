"""Learns the backbones of proteins, and makes new ones."""

from __future__ import annotations

import sys

from equiformer_pytorch.cli.program import Program, run
from examples.backbones.settings import Settings

TRAIN = Program(
    "generate_backbones train",
    "backbones",
    __doc__ or "",
    Settings,
    "examples.backbones.run",
    max_minutes=60.0,
    install='pip install -e ".[examples,backbones]"',
)

if __name__ == "__main__":
    sys.exit(run(TRAIN, sys.argv[2:]))
