"""Trains an Equiformer to take the noise off protein backbones, and shows how well it does.

    python denoise.py                            # about five minutes on two CPU cores, no network
    python denoise.py --resume                   # goes on with the latest run from its last checkpoint, exactly
    accelerate launch denoise.py                 # one process per GPU
    torchrun --nproc-per-node 2 denoise.py       # two processes, also without a GPU

Results are in runs/NAME: checkpoint.pt, metrics.csv, loss.png, backbone.png, evaluation.txt and PDB files.
"""

from __future__ import annotations

import os
from types import ModuleType

from examples.denoising.settings import Settings
from examples.program import Program, run_and_exit

# Read when torch is first imported: threads that wait for one another sleep instead of spinning. On two cores that
# other programs use too, a training step takes 0.4 s instead of 2.2 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load() -> ModuleType:
    """What needs torch and the extra packages."""
    from examples.denoising import run

    return run


PROGRAM = Program("denoise.py", __doc__ or "", Settings, load, max_minutes=8.0)

if __name__ == "__main__":
    run_and_exit(PROGRAM)
