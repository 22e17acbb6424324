"""Runs a program that write.py wrote, without equiformer-pytorch: with torch, and ASE for files and neighbours.

python examples/exported/run.py potential.pt2 structures.xyz
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ase.io import iread
from ase.neighborlist import neighbor_list


def nearest(receivers, senders, offsets, distances, most, strict):
    """Which edges come from the `most` nearest neighbours of each atom; unless it is strict also from those that are
    hardly farther than the first one beyond. Of equally near ones, to 1e-9 Å, the first senders and cells."""
    order = np.lexsort((*offsets.T[::-1], senders, distances.round(9), receivers))
    ends, square = receivers[order], distances[order] ** 2
    rank = np.arange(len(order)) - np.searchsorted(ends, ends)
    if strict:
        return order[rank < most]
    limit = np.full(ends.max(initial=-1) + 1, np.inf)
    limit[ends[rank == most]] = square[rank == most] + 0.01
    return order[square <= limit[ends]]


def structure(atoms, known):
    """What the program takes of one structure."""
    seen = atoms.copy()
    seen.pbc = seen.pbc & known["use_pbc"]
    receivers, senders, offsets, distances = neighbor_list("ijSd", seen, known["cutoff"])
    if known["max_neighbors"] is not None:
        kept = nearest(receivers, senders, offsets, distances, known["max_neighbors"], known["strict_neighbors"])
        receivers, senders, offsets = receivers[kept], senders[kept], offsets[kept]
    found = {
        "atomic_numbers": atoms.numbers.astype(np.int64),
        "pos": atoms.positions,
        "batch": np.zeros(len(atoms), dtype=np.int64),
        "cell": np.array(atoms.cell)[None],
        "edge_index": np.stack((senders, receivers)).astype(np.int64),
        "cell_offsets": offsets.reshape(-1, 3).astype(np.int64),
    }
    return {name: torch.tensor(value, device=known["device"]) for name, value in found.items()}


def main():
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("structures", help="any file that ASE reads")
    args = parser.parse_args()
    known = json.loads(args.program.with_suffix(".json").read_text())
    if "use_pbc" not in known:
        raise SystemExit(f"{args.program} is of 1.3, which does not say which neighbours it sees: write it again")
    if known["compiled"]:
        program = torch._inductor.aoti_load_package(str(args.program))
    else:
        program = torch.export.load(args.program).module()
    for number, atoms in enumerate(iread(args.structures, ":")):
        unknown = sorted(set(atoms.numbers.tolist()).difference(known["elements"]))
        if unknown:
            raise SystemExit(f"structure {number} has elements {unknown}, which the potential does not know")
        with torch.no_grad():
            out = program(**structure(atoms, known))
        largest = float(out["forces"].norm(dim=1).max())
        print(f"{number:5d}  energy {float(out['energy']):.8f} eV  largest force {largest:.6f} eV/Å")


if __name__ == "__main__":
    main()
