"""Trains an Equiformer to take the noise off protein backbones, and shows how well it does.

    python denoise.py                            # about five minutes on two idle CPU cores, no download
    python denoise.py --resume                   # goes on with the latest run from its last checkpoint, exactly
    accelerate launch denoise.py                 # one process per GPU
    torchrun --nproc-per-node 2 denoise.py       # two processes, also without a GPU

Results are in runs/NAME: checkpoint.pt, metrics.csv, loss.png, backbone.png, evaluation.txt and PDB files.
"""

from __future__ import annotations

import sys

from equiformer_pytorch.cli.program import Program, run
from examples.denoising.settings import Settings

PROGRAM = Program(
    "denoise.py",
    "denoise",
    __doc__ or "",
    Settings,
    "examples.denoising.run",
    max_minutes=15.0,
    install='pip install -e ".[examples]"',
)

if __name__ == "__main__":
    sys.exit(run(PROGRAM))
