"""The command line of programs that train: options, resuming, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from equiformer_pytorch.training.options import TrainingOptions, positive

LATEST = ""

# Read when torch is first imported: threads that wait for one another spin for microseconds, then sleep. A training
# step of potentials takes 0.15 s on two idle cores, as without this (0.27 s asleep at once), and 0.6 s where other
# programs use both (2.1 s, 0.8 s).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@dataclass(frozen=True)
class Program:
    """A program. `module` has its `prepare`, and `SETUP_ERRORS`, which are the user's to mend; it is imported late."""

    name: str
    stem: str
    """What its runs are called unless they are given a name."""
    description: str
    settings: type[TrainingOptions]
    module: str
    max_minutes: float | None
    """How long it trains unless it is told otherwise; None: to the end."""
    install: str
    """The command that installs what is missing."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help explains the options)\n")


def make_parser(program: Program) -> Parser:
    """The options of a run, and one for each of its settings."""
    parser = Parser(
        program.name,
        description=program.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of all runs (default: runs)")
    run.add_argument("--name", help=f"of a new run (default: {program.stem}, {program.stem}-2, …)")
    run.add_argument(
        "--resume",
        nargs="?",
        const=LATEST,
        metavar="NAME",
        help="go on with this run, or with the latest; its settings stay, but with --steps it becomes longer",
    )
    run.add_argument(
        "--max-minutes",
        type=positive,
        default=program.max_minutes,
        help=f"stop training after that long, to be resumed at will (default: {program.max_minutes or 'never'})",
    )
    add_options(parser.add_argument_group("settings, fixed when a run begins, but for --steps"), program.settings)
    return parser


def add_options(group: argparse._ActionsContainer, settings: type) -> None:
    """One option for each field of a dataclass of settings, see :mod:`equiformer_pytorch.training.options`."""
    for option in fields(settings):
        default = " ".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
        metadata = dict(option.metadata)
        metadata["help"] += f" (default: {default})" if default not in (None, "", False) else ""
        group.add_argument("--" + option.name.replace("_", "-"), default=argparse.SUPPRESS, **metadata)


def given_options(args: argparse.Namespace, settings: type) -> dict[str, Any]:
    """What was named on the command line, by field; also where it is the default."""
    named = {option.name: getattr(args, option.name) for option in fields(settings) if option.name in args}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in named.items()}


def main(program: Program, arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 2 for a mistake, 128 + the signal that stopped it."""
    parser = make_parser(program)
    args = parser.parse_args(arguments)
    given = given_options(args, program.settings)
    fixed = [name for name in given if name != "steps"] + ["name"] * (args.name is not None)
    if args.resume is not None and fixed:
        parser.error(f"--resume keeps a run's name and settings; leave out --{fixed[0].replace('_', '-')}")
    try:
        module = import_module(program.module)
        from equiformer_pytorch.training import runs
    except ModuleNotFoundError as error:
        return fail(program.name, f"the package {error.name} is missing: {program.install}", 2)

    try:
        if args.resume is None:
            settings = program.settings(**given)
            stopped_by = runs.start(module.prepare, settings, args.runs, args.name, program.stem, args.max_minutes)
        else:
            name, steps = args.resume or None, given.get("steps")
            stopped_by = runs.resume(module.prepare, program.settings, args.runs, name, args.max_minutes, steps)
    except (*runs.SETUP_ERRORS, *module.SETUP_ERRORS) as error:
        return fail(program.name, error, 2)
    except FloatingPointError as error:
        return fail(program.name, error, 1)
    if stopped_by is not None:
        return fail(program.name, f"stopped by {stopped_by.name}; --resume goes on", 128 + stopped_by)
    return 0


def fail(name: str, message: object, code: int) -> int:
    """One line on stderr, of the program of that name, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{name}: {message}", file=sys.stderr)
    return code


def run(program: Program, arguments: Sequence[str] | None = None) -> int:
    """The program as it is called by people, who may interrupt it; its exit code."""
    try:
        return main(program, arguments)
    except KeyboardInterrupt:  # while nothing is being trained
        return fail(program.name, "interrupted; --resume goes on from the last checkpoint, if there is one", 130)
