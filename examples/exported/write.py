"""Writes a potential as a program that runs where this package is not installed.

    python -m examples.exported.write runs/potential/potential.pt potential.pt2
    python -m examples.exported.write runs/potential/potential.pt compiled.pt2 --compile    # for this kind of machine

A plain program runs on any machine with torch; a compiled one is faster to load and to run. See run.py beside this.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from equiformer_pytorch.atoms import export_potential, load_potential


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.exported.write",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("potential", type=Path, help="file of a potential of any kind")
    parser.add_argument("program", type=Path, help="file to write, .pt2; what it knows is written beside it, .json")
    parser.add_argument("--compile", action="store_true", help="by AOTInductor, which needs a C++ compiler")
    parser.add_argument("--device", default="cpu", help="where it will run")
    parser.add_argument("--double", action="store_true", help="in float64, for dynamics")
    args = parser.parse_args(arguments)
    potential = load_potential(args.potential).to(args.device, torch.float64 if args.double else None)
    program = export_potential(potential)
    if args.compile:
        torch._inductor.aoti_compile_and_package(program, package_path=str(args.program))
    else:
        torch.export.save(program, args.program)
    known = {"cutoff": potential.cutoff, "elements": list(potential.elements), "compiled": args.compile}
    args.program.with_suffix(".json").write_text(json.dumps({**known, "device": args.device}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
