"""Makes ``data/qm9`` of the files of qm9pack 1.0.3: ``python data/build_qm9.py FOLDER``; some molecules, for tests.

The same files with fewer rows, and of their columns those that `examples.qm9` reads.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from examples.qm9.data import PARTS, TENSORS
from examples.qm9.properties import COLUMNS

COUNT = 270
HERE = Path(__file__).with_name("qm9")


def build(folder: Path) -> None:
    """Every so many molecules of each part, by chance but always the same."""
    chosen: set[str] = set()
    for name in PARTS:
        with (folder / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        some = sorted(random.Random(name).sample(range(len(rows)), COUNT // len(PARTS)))
        own = [column for column in rows[0] if column in ("XYZ_file", "Index", "Elements", "XYZ_Ang", *COLUMNS)]
        write(HERE / name, own, [rows[place] for place in some])
        chosen |= {rows[place]["XYZ_file"] for place in some}
    with (folder / TENSORS).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["XYZ_file"] in chosen]
    write(HERE / TENSORS, list(rows[0]), rows)


def write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    """Some columns of some rows."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
