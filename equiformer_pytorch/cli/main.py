"""Potentials from files of structures.

    equiformer train --train FILE --valid FILE --test FILE      # or shares of one file; any format that ASE reads
    equiformer evaluate POTENTIAL FILE …                        # errors by element and group, plots, predictions
    equiformer info FILE …                                      # what a file of a potential, or of structures, holds

`equiformer COMMAND --help` explains a command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from equiformer_pytorch.version import __version__

COMMANDS = ("train", "evaluate", "info")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `equiformer`; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["--help"], ["-h"]):
        print((__doc__ or "").strip())
        return 0
    if given[:1] == ["--version"]:
        print(__version__)
        return 0
    if not given or given[0] not in COMMANDS:
        came = f"got {given[0]}" if given else "which one?"
        print(f"equiformer: the commands are {', '.join(COMMANDS)}; {came} (--help explains them)", file=sys.stderr)
        return 2
    return import_module(f"equiformer_pytorch.cli.{given[0]}").main(given[1:])
