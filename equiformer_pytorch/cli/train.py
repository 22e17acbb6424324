"""Trains an interatomic potential, or fine-tunes one, on whatever labels the structures have.

    equiformer train --train train.xyz --valid valid.xyz --test test.xyz
    equiformer train --train all.xyz --valid 0.1 --test 0.1            # shares of one file
    equiformer train --train all.xyz --keys energy=REF_energy forces=REF_forces virial=REF_virial
    equiformer train --train all.xyz --checkpoint FILE --lr 2e-4       # go on from a trained potential
    equiformer train --train all.db --targets dipole=1 charges=0:atom  # also, or only, other labels
    equiformer train --train all.xyz --inputs charge=-2..2 spin=0..4   # energies depend on these, too
    equiformer train --resume                                          # go on with the latest run, exactly
    accelerate launch -m equiformer_pytorch.cli train …                # one process per GPU

Results are in runs/NAME: potential.pt for EquiformerCalculator, learning.png, parity.png, evaluation.txt, metrics.csv,
checkpoint.pt.
"""

from __future__ import annotations

from collections.abc import Sequence

from equiformer_pytorch.cli import program
from equiformer_pytorch.training.potentials.settings import PotentialSettings

PROGRAM = program.Program(
    "equiformer train",
    "potential",
    __doc__ or "",
    PotentialSettings,
    "equiformer_pytorch.training.potentials.run",
    max_minutes=None,
    install='pip install "equiformer-pytorch[train]"',
)


def main(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    return program.run(PROGRAM, arguments)
