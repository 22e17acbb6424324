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


def structure(atoms, cutoff, device):
    """What the program takes of one structure."""
    receivers, senders, offsets = neighbor_list("ijS", atoms, cutoff)
    found = {
        "atomic_numbers": atoms.numbers.astype(np.int64),
        "pos": atoms.positions,
        "batch": np.zeros(len(atoms), dtype=np.int64),
        "cell": np.array(atoms.cell)[None],
        "edge_index": np.stack((senders, receivers)).astype(np.int64),
        "cell_offsets": offsets.reshape(-1, 3).astype(np.int64),
    }
    return {name: torch.tensor(value, device=device) for name, value in found.items()}


def main():
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("structures", help="any file that ASE reads")
    args = parser.parse_args()
    known = json.loads(args.program.with_suffix(".json").read_text())
    if known["compiled"]:
        program = torch._inductor.aoti_load_package(str(args.program))
    else:
        program = torch.export.load(args.program).module()
    for number, atoms in enumerate(iread(args.structures, ":")):
        unknown = sorted(set(atoms.numbers.tolist()).difference(known["elements"]))
        if unknown:
            raise SystemExit(f"structure {number} has elements {unknown}, which the potential does not know")
        with torch.no_grad():
            out = program(**structure(atoms, known["cutoff"], known["device"]))
        largest = float(out["forces"].norm(dim=1).max())
        print(f"{number:5d}  energy {float(out['energy']):.8f} eV  largest force {largest:.6f} eV/Å")


if __name__ == "__main__":
    main()
