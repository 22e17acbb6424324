"""Evaluates a potential on structures with known labels, by set, element and group.

    equiformer evaluate potential.pt test.xyz more.db
    equiformer evaluate potential.pt test.xyz --keys energy=REF_energy forces=REF_forces --group kind
    equiformer evaluate seed-0.pt test.xyz --committee seed-1.pt seed-2.pt

Left in --out: evaluation.txt and evaluation.json (errors of each file, of each element and of each group that
structures name, by `config_type` unless told otherwise), parity.png, and predictions.xyz: the structures as they were,
with `predicted_energy`, `predicted_forces`, … beside what they had. Of a committee, potentials that were trained apart,
all this is of their mean, with the spread between them: `predicted_energy_std`, `predicted_forces_std`, …, spread.png,
and in the tables, where large spreads point at what the potentials do not know.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from equiformer_pytorch.cli.program import Parser
from equiformer_pytorch.training.options import assigned, assignment, count, whole

INSTALL = 'pip install "equiformer-pytorch[train]"'


def make_parser() -> Parser:
    """The options."""
    parser = Parser(
        "equiformer evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("potential", type=Path, help="potential.pt of a run, or a file of an EquiformerV2 or V3")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="structures, in any format that ASE reads")
    parser.add_argument(
        "--committee", type=Path, nargs="+", default=[], metavar="POTENTIAL",
        help="others that were trained apart, with the same cutoff, inputs and targets",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="FOLDER", help="(default: evaluation)")
    parser.add_argument(
        "--keys", type=assignment, nargs="+", default=[], metavar="LABEL=NAME",
        help="names of labels in the files, where they are others: energy=REF_energy forces=REF_forces …",
    )  # fmt: skip
    parser.add_argument("--group", default="config_type", metavar="NAME", help="what groups are named by in the files")
    parser.add_argument("--batch-size", type=count, default=16, help="most structures at once (default: 16)")
    parser.add_argument("--max-edges", type=count, help="most edges at once")
    parser.add_argument("--workers", type=whole, default=0, help="processes that read structures and make their graphs")
    parser.add_argument("--device", help="where to compute (default: a GPU, if there is one)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="of the weights (default: as in the file)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        from equiformer_pytorch.training.potentials.evaluation import Evaluation, evaluate_files
    except ModuleNotFoundError as error:
        print(f"{parser.prog}: the package {error.name} is missing: {INSTALL}", file=sys.stderr)
        return 2
    how = Evaluation(
        keys=assigned(tuple(args.keys)),
        group=args.group,
        batch_size=args.batch_size,
        most_edges=args.max_edges,
        workers=args.workers,
        device=args.device,
        dtype=args.dtype,
    )
    try:
        print(evaluate_files([args.potential, *args.committee], args.files, args.out, how))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"{parser.prog}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    print(f"\ntables, plots and predictions are in {args.out}")
    return 0
