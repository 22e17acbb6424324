"""Trains an Equiformer to take the noise off protein backbones, and shows how well it does.

    python denoise.py                            # about five minutes on two CPU cores, no network
    python denoise.py --resume                   # goes on with the latest run from its last checkpoint, exactly
    accelerate launch denoise.py                 # one process per GPU
    torchrun --nproc-per-node 2 denoise.py       # two processes, also without a GPU

Results are in runs/NAME: checkpoint.pt, metrics.csv, loss.png, backbone.png, evaluation.txt and PDB files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from examples.denoising.settings import Settings, positive

LATEST = ""

# Read when torch is first imported: threads that wait for one another sleep instead of spinning. On two cores that
# other programs use too, a training step takes 0.4 s instead of 2.2 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help explains the options)\n")


def make_parser() -> Parser:
    """The options of a run, and one for each of its settings."""
    parser = Parser(
        "denoise.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of all runs (default: runs)")
    run.add_argument("--name", help="of a new run (default: denoise, denoise-2, …)")
    run.add_argument(
        "--resume",
        nargs="?",
        const=LATEST,
        metavar="NAME",
        help="go on with this run, or with the latest; its settings stay",
    )
    run.add_argument(
        "--max-minutes",
        type=positive,
        default=8.0,
        help="stop training after that long, to be resumed at will (default: 8.0)",
    )
    settings = parser.add_argument_group("settings, fixed when a run begins")
    for option in fields(Settings):
        default = " ".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
        metadata = dict(option.metadata)
        metadata["help"] += f" (default: {default})" if default is not None else ""
        settings.add_argument("--" + option.name.replace("_", "-"), default=option.default, **metadata)
    return parser


def fail(message: object, code: int) -> int:
    """One line on stderr, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"denoise.py: {message}", file=sys.stderr)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 2 for a mistake, 128 + the signal that stopped it."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    names = [option.name for option in fields(Settings)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) != parser.get_default(name)}
    if "dim" in given:
        given["dim"] = tuple(given["dim"])
    if args.resume is not None and (given or args.name):
        parser.error(f"--resume keeps a run's name and settings; leave out --{[*given, 'name'][0].replace('_', '-')}")
    try:
        from examples.denoising import run
    except ModuleNotFoundError as error:
        return fail(f'the package {error.name} is missing: pip install -e ".[examples]"', 2)

    try:
        if args.resume is None:
            stopped_by = run.start(Settings(**given), args.runs, args.name, args.max_minutes)
        else:
            stopped_by = run.resume(args.runs, args.resume or None, args.max_minutes)
    except run.SETUP_ERRORS as error:
        return fail(error, 2)
    except FloatingPointError as error:
        return fail(error, 1)
    if stopped_by is not None:
        return fail(f"stopped by {stopped_by.name}; --resume goes on", 128 + stopped_by)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while nothing is being trained
        sys.exit(fail("interrupted; --resume goes on from the last checkpoint, if there is one", 130))
