"""What a run of `train_potential.py` trains: as `equiformer train`, on data that are made where they are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from equiformer_pytorch.training.potentials import run
from equiformer_pytorch.training.runs import Job
from examples.potential import data
from examples.potential.settings import MADE_HERE, Settings

SETUP_ERRORS = (data.DataError, *run.SETUP_ERRORS)


def prepare(settings: Settings, folder: Path, resumed: bool, accelerator: Accelerator) -> Job:
    """Data first."""
    if settings.train is not None:
        settings = replace(settings, data=None)
    elif settings.data in MADE_HERE:
        made = Path(settings.data_folder) / settings.data
        with accelerator.main_process_first():  # the others find what it made
            data.made_here(settings.data, made)
        settings = replace(settings, data=str(made))
    return run.prepare(settings, folder, resumed, accelerator)
