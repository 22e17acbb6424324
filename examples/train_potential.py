"""Trains an interatomic potential, or fine-tunes one, as `equiformer train` does, on GFN2-xTB labels computed here.

    python -m examples.train_potential                    # many molecules; about fifteen minutes on two CPU cores
    python -m examples.train_potential --data aspirin --batch-size 2 --steps 2000    # one molecule
    python -m examples.train_potential --data FOLDER      # your own: train.xyz, valid.xyz, test.xyz (extxyz)
    python -m examples.train_potential --data FOLDER --checkpoint FILE --lr 2e-4    # go on from a trained potential
    python -m examples.train_potential --resume           # goes on with the latest run from its last checkpoint
    accelerate launch -m examples.train_potential         # one process per GPU

Results are in runs/NAME: potential.pt for EquiformerCalculator, learning.png, parity.png, evaluation.txt, metrics.csv,
checkpoint.pt.
"""

from __future__ import annotations

import sys

from equiformer_pytorch.cli.program import Program, run
from examples.potential.settings import Settings

PROGRAM = Program(
    "train_potential.py",
    "potential",
    __doc__ or "",
    Settings,
    "examples.potential.run",
    max_minutes=15.0,
    install='pip install -e ".[examples]"',
)

if __name__ == "__main__":
    sys.exit(run(PROGRAM))
