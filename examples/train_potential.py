"""Trains an interatomic potential, or fine-tunes one, on energies and forces: of GFN2-xTB, computed here, or yours.

    python -m examples.train_potential                    # many molecules; about fifteen minutes on two CPU cores
    python -m examples.train_potential --data aspirin --lr 2e-3 --batch-size 5 --steps 2000    # one molecule
    python -m examples.train_potential --data FOLDER      # your own: train.xyz, valid.xyz, test.xyz (extxyz)
    python -m examples.train_potential --data FOLDER --checkpoint FILE --lr 2e-4    # go on from a trained potential
    python -m examples.train_potential --resume           # goes on with the latest run from its last checkpoint
    accelerate launch -m examples.train_potential         # one process per GPU

FILE is potential.pt of another run, or a file of an EquiformerV2 or EquiformerV3, as published or as their `save`
writes it. It decides model and cutoff; reference energies are fitted to the data anew.

Results are in runs/NAME: potential.pt for EquiformerCalculator, learning.png, parity.png, evaluation.txt, metrics.csv,
checkpoint.pt.
"""

from __future__ import annotations

from examples.potential.settings import Settings
from examples.program import Program, run_and_exit

PROGRAM = Program("train_potential.py", __doc__ or "", Settings, "examples.potential.run", max_minutes=15.0)

if __name__ == "__main__":
    run_and_exit(PROGRAM)
