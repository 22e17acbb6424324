"""Learns the backbones of proteins, and makes new ones.

    python -m examples.generate_backbones sample --lengths 64 96 --count 8       # with the shipped model; a minute
    python -m examples.generate_backbones sample --motif FILE.pdb --residues 10-24 --lengths 80
    python -m examples.generate_backbones sample --structure CCCHHHHHHHHHHHHHHHCCC.....EEEEEE...EEEEEEC
    python -m examples.generate_backbones sample --vary FILE.pdb --noise 2       # relatives of a given backbone
    python -m examples.generate_backbones report                                 # how good they are
    python -m examples.generate_backbones train                                  # an hour and a half on one CPU core
    python -m examples.generate_backbones train --steps 6000                     # to see it work; 15 minutes
    python -m examples.generate_backbones train --resume                         # from the last checkpoint, exactly
    torchrun --nproc-per-node 2 -m examples.generate_backbones train             # two processes; one per GPU alike

Each command explains its options: python -m examples.generate_backbones sample --help
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from equiformer_pytorch.cli.program import Parser, Program, add_options, fail, given_options, run
from examples.backbones.settings import ReportSettings, SampleSettings, Settings

INSTALL = 'pip install -e ".[examples,backbones]"'


TRAIN = Program(
    "generate_backbones train",
    "backbones",
    __doc__ or "",
    Settings,
    "examples.backbones.run",
    max_minutes=None,
    install=INSTALL,
)
# What `sample` and `report` are told, and the function that does it.
OTHERS = {
    "sample": (SampleSettings, "examples.backbones.making", "make"),
    "report": (ReportSettings, "examples.backbones.judging", "judge"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 2 for a mistake, 128 + the signal that stopped it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["train"]:
        return run(TRAIN, given[1:])
    if given[:1] and given[0] in OTHERS:
        return other(given[0], given[1:])
    parser = Parser("generate_backbones", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", *OTHERS], help="what to do")
    parser.parse_args(given)
    return 0


def other(command: str, arguments: Sequence[str]) -> int:
    """`sample` or `report`."""
    settings, module_name, function = OTHERS[command]
    name = f"generate_backbones {command}"
    parser = Parser(name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, settings)
    given = given_options(parser.parse_args(arguments), settings)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        return fail(name, f"the package {error.name} is missing: {INSTALL}", 2)
    try:
        getattr(module, function)(settings(**given))
    except module.SETUP_ERRORS as error:
        return fail(name, error, 2)
    except KeyboardInterrupt:
        return fail(name, "interrupted", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
