"""Builds data/backbones.pkl, the chains that `python denoise.py` trains on.

    pip install -e ".[examples]"
    pip download --no-deps --no-binary :all: MDAnalysisTests==2.11.0
    tar xf mdanalysistests-2.11.0.tar.gz
    python data/build_backbones.py mdanalysistests-2.11.0/MDAnalysisTests/data/dssp

The result is a pickle in sidechainnet's own format, to be read with `sidechainnet.load(local_scn_path=...)`. See
data/README.md for the source, the licence and the split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sidechainnet.dataloaders.SCNDataset import SCNDataset
from sidechainnet.dataloaders.SCNProtein import SCNProtein

VALID = ("1lpbA", "2cayA", "2qdlA", "3gknA")
TEST = ("1pdoA", "2fvvA", "2xdgA", "3a4rA", "3nngA", "4dkcA")
SKIPPED = ("1mr1D_failing", "wrong_hydrogens")  # deliberately broken inputs of the tests they come from


def read_chain(path: Path, pdbid: str) -> SCNProtein:
    """One chain as a sidechainnet entry, with the fields that `from_pdb` leaves out and the loaders want."""
    protein = SCNProtein.from_pdb(str(path), pdbid=pdbid, suppress_warnings=True)
    protein.coords = protein.coords.astype(np.float32)
    protein.angles = protein.angles.astype(np.float32)
    protein.unmodified_seq = " ".join(protein.unmodified_seq)
    protein.evolutionary = np.zeros((len(protein), 21), np.float32)
    protein.secondary_structure = " " * len(protein)
    protein.split = "valid" if pdbid in VALID else "test" if pdbid in TEST else "train"
    return protein


def main() -> None:
    """Reads the folder, writes the pickle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder with the *.pdb.gz files")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("backbones.pkl"), help="file to write")
    args = parser.parse_args()

    paths = {path.name.removesuffix(".pdb.gz"): path for path in sorted(args.folder.glob("*.pdb.gz"))}
    proteins = [read_chain(path, pdbid) for pdbid, path in paths.items() if pdbid not in SKIPPED]
    if not proteins:
        parser.error(f"no *.pdb.gz file in {args.folder}")
    SCNDataset.from_scnproteins(proteins).pickle(
        args.out, description="50 protein chains of the wwPDB (CC0), by way of MDAnalysisTests 2.11.0 (data/dssp)."
    )
    print(f"wrote {len(proteins)} chains, {sum(map(len, proteins))} residues, to {args.out}")


if __name__ == "__main__":
    main()
