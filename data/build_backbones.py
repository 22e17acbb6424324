"""Builds the data that the repository ships: backbones.pkl, which `python denoise.py` trains on, and fresh_chains.pkl,
which `python -m benchmarks.quality` measures on.

    pip install -e ".[examples]"
    pip download --no-deps --no-binary :all: MDAnalysisTests==2.11.0 biopython==1.88 pdb2pqr==3.8.0
    for archive in *.tar.gz; do tar xf $archive; done
    python data/build_backbones.py .

The results are pickles in sidechainnet's own format, to be read with `sidechainnet.load(local_scn_path=...)`. See
data/README.md for the sources, the licence and the splits.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from Bio.PDB.Chain import Chain
from Bio.PDB.MMCIFParser import MMCIFParser
from Bio.PDB.Model import Model
from Bio.PDB.PDBIO import PDBIO, Select
from Bio.PDB.PDBParser import PDBParser
from Bio.PDB.Residue import Residue
from sidechainnet.dataloaders.SCNDataset import SCNDataset
from sidechainnet.dataloaders.SCNProtein import SCNProtein

BACKBONES = "mdanalysistests-2.11.0/MDAnalysisTests/data/dssp"
SKIPPED = ("1mr1D_failing", "wrong_hydrogens")  # deliberately broken inputs of the tests they come from
VALID = ("1lpbA", "2cayA", "2qdlA", "3gknA")
TEST = ("1pdoA", "2fvvA", "2xdgA", "3a4rA", "3nngA", "4dkcA")

FRESH = {
    "1a28B": "mdanalysistests-2.11.0/MDAnalysisTests/data/1a28.pdb.gz",
    "1a7gE": "biopython-1.88/Tests/PDB/1A7G.cif",
    "1bd2B": "mdanalysistests-2.11.0/MDAnalysisTests/data/mmcif/1BD2.pdb.gz",
    "1fasA": "pdb2pqr-3.8.0/tests/data/1FAS.cif",
    "1fkiA": "pdb2pqr-3.8.0/tests/data/1FKI.cif",
    "2ofgX": "biopython-1.88/Tests/PDB/2OFG.cif",
    "4cupA": "biopython-1.88/Tests/PDB/4CUP.cif",
    "4e43A": "mdanalysistests-2.11.0/MDAnalysisTests/data/4E43.pdb",
    "4zhlU": "biopython-1.88/Tests/PDB/4ZHL.cif",
    "7cfnN": "biopython-1.88/Tests/PDB/7CFN.cif",
    "7ddoC": "biopython-1.88/Tests/PDB/7DDO.pdb",
    "9x2oA": "pdb2pqr-3.8.0/tests/data/9X2O.cif",
}


def read_chain(path: Path, pdbid: str, split: str) -> SCNProtein:
    """A file of one chain as a sidechainnet entry, with the fields that `from_pdb` leaves out and the loaders want."""
    protein: Any = SCNProtein.from_pdb(str(path), pdbid=pdbid, suppress_warnings=True)
    protein.coords = protein.coords.astype(np.float32)
    protein.angles = protein.angles.astype(np.float32)
    protein.unmodified_seq = " ".join(protein.unmodified_seq)
    protein.evolutionary = np.zeros((len(protein), 21), np.float32)
    protein.secondary_structure = " " * len(protein)
    protein.split = split
    return protein


class OneChain(Select):
    """The residues of one chain of the first model, without water and ligands."""

    def __init__(self, chain: str) -> None:
        self.chain = chain

    def accept_model(self, model: Model) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (says int)
        return model.id == 0

    def accept_chain(self, chain: Chain) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return chain.id == self.chain

    def accept_residue(self, residue: Residue) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return residue.id[0] == " "


def read_chain_of(path: Path, pdbid: str, split: str) -> SCNProtein:
    """The same for one chain, the last letter of its name, out of a PDB or mmCIF file."""
    parser = (MMCIFParser if path.suffix == ".cif" else PDBParser)(QUIET=True)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        structure = parser.get_structure(pdbid, file)
    writer = PDBIO()
    writer.set_structure(structure)
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder) / "chain.pdb"
        writer.save(str(single), OneChain(pdbid[-1]))
        return read_chain(single, pdbid, split)


def write(proteins: Sequence[SCNProtein], path: Path, source: str) -> None:
    """The pickle of some chains."""
    description = f"{len(proteins)} protein chains of the wwPDB (CC0), by way of {source}."
    SCNDataset.from_scnproteins(proteins).pickle(path, description=description)
    print(f"wrote {len(proteins)} chains, {sum(map(len, proteins))} residues, to {path}")


def main() -> None:
    """Reads the unpacked packages, writes the pickles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder where the packages were unpacked")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    args = parser.parse_args()

    paths = {path.name.removesuffix(".pdb.gz"): path for path in sorted((args.folder / BACKBONES).glob("*.pdb.gz"))}
    splits = dict.fromkeys(paths, "train") | dict.fromkeys(VALID, "valid") | dict.fromkeys(TEST, "test")
    backbones = [read_chain(path, pdbid, splits[pdbid]) for pdbid, path in paths.items() if pdbid not in SKIPPED]
    if not backbones:
        parser.error(f"no *.pdb.gz file in {args.folder / BACKBONES}")
    write(backbones, args.out / "backbones.pkl", "MDAnalysisTests 2.11.0 (data/dssp)")

    fresh = [read_chain_of(args.folder / path, pdbid, "test") for pdbid, path in FRESH.items()]
    write(fresh, args.out / "fresh_chains.pkl", "MDAnalysisTests 2.11.0, biopython 1.88 and pdb2pqr 3.8.0")


if __name__ == "__main__":
    main()
