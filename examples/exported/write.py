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
from typing import Any

import torch

from equiformer_pytorch.atoms import Potential, export_potential, load_potential


def known_of(potential: Potential) -> dict[str, Any]:
    """What whoever calls the program has to know: which edges it takes, and which elements."""
    return {
        "cutoff": potential.cutoff,
        "max_neighbors": potential.max_neighbors,
        "strict_neighbors": potential.strict_neighbors,
        "use_pbc": potential.use_pbc,
        "elements": list(potential.elements),
    }


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
    known = {**known_of(potential), "compiled": args.compile, "device": args.device}
    args.program.with_suffix(".json").write_text(json.dumps(known) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
