"""Structure files: chains from PDB and mmCIF files and from sidechainnet, and PDB files of backbones.

A chain is read in pieces without gaps: a residue without one of N, CA, C and O ends a piece, and so does a C–N bond
that is too long or too short. What is not an amino acid is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import gemmi
import torch
from torch import Tensor

from examples.backbones.chains import ATOMS, Chain

SUFFIXES = (".pdb", ".ent", ".cif", ".pdb.gz", ".ent.gz", ".cif.gz")
BOND = (1.15, 1.55)  # Å, C–N
THREE_LETTERS = {gemmi.find_tabulated_residue(name).one_letter_code: name for name in gemmi.expand_one_letter_sequence(
    "ACDEFGHIKLMNPQRSTVWY", gemmi.ResidueKind.AA)} | {"X": "UNK"}  # fmt: skip


class StructureError(ValueError):
    """A structure file cannot be read, or is not what is wanted."""


def read_pieces(path: Path) -> dict[str, list[Chain]]:
    """The pieces without gaps of the chains of the first model, by chain; named `FILE_CHAIN_FIRST RESIDUE'S NUMBER`.

    Raises:
        StructureError: if the file cannot be read, or has no protein chain.
    """
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise StructureError(f"{path} cannot be read: {error}") from error
    name = path.name.split(".")[0]
    chains = {}
    for chain in structure[0] if len(structure) else ():
        pieces = list(_pieces(chain))
        if pieces:
            chains[chain.name] = [Chain(f"{name}_{chain.name}_{first}", letters, xyz) for first, letters, xyz in pieces]
    if not chains:
        raise StructureError(f"{path} has no protein chain with {', '.join(ATOMS)} of its residues")
    return chains


def read_chain(path: Path, chain: str | None = None) -> Chain:
    """The one chain of a file; of several, that which `chain` names.

    Raises:
        StructureError: if the file cannot be read, has several chains and none is named, or the chain has a gap.
    """
    chains = read_pieces(path)
    if chain is None and len(chains) > 1:
        raise StructureError(f"{path} has {len(chains)} chains ({', '.join(chains)}): name the one that is wanted")
    if chain is not None and chain not in chains:
        raise StructureError(f"{path} has no protein chain {chain!r}; it has {', '.join(chains)}")
    ((name, pieces),) = [(name, pieces) for name, pieces in chains.items() if chain in (None, name)]
    if len(pieces) > 1:
        firsts = ", ".join(piece.name.rpartition("_")[2] for piece in pieces[1:])
        raise StructureError(
            f"chain {name} of {path} has gaps, before residue {firsts}: a chain without gaps is wanted, with "
            f"{', '.join(ATOMS)} of every residue"
        )
    return Chain(path.name.split(".")[0] + f"_{name}", pieces[0].sequence, pieces[0].coords)


def read_folder(folder: Path, shortest: int) -> list[Chain]:
    """All pieces of at least `shortest` residues of the structure files of a folder; of equal sequences the first.

    Raises:
        StructureError: if there is no such file or piece, or a file cannot be read.
    """
    paths = sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES)) if folder.is_dir() else []
    if not paths:
        raise StructureError(f"{folder} has no structure files ({', '.join(SUFFIXES)})")
    found: dict[str, Chain] = {}
    for path in paths:
        for piece in (piece for pieces in read_pieces(path).values() for piece in pieces):
            if len(piece) >= shortest:
                found.setdefault(piece.sequence, piece)
    if not found:
        raise StructureError(f"the {len(paths)} files of {folder} have no piece of {shortest} residues without a gap")
    return list(found.values())


def pdb_text(models: Sequence[Tensor], sequence: str | None = None, title: str = "generated backbone") -> str:
    """Backbones (residues, 4, 3) of one length as a PDB file (format 3.3), chain A from 1; several are its models.

    Residues are glycines where no sequence is given.
    """
    letters = sequence or "G" * len(models[0])
    if any(model.shape != (len(letters), len(ATOMS), 3) for model in models):
        shapes = ", ".join(str(tuple(model.shape)) for model in models)
        raise ValueError(f"models must be of shape {(len(letters), len(ATOMS), 3)} each, got {shapes}")
    lines = [f"TITLE     {title}"]
    for number, model in enumerate(models, 1):
        if len(models) > 1:
            lines.append(f"MODEL     {number:4d}")
        serial = 0
        for index, (letter, atoms) in enumerate(zip(letters, model.tolist(), strict=True), 1):
            for atom, (x, y, z) in zip(ATOMS, atoms, strict=True):
                serial += 1
                lines.append(
                    f"ATOM  {serial:5d}  {atom:<3s} {THREE_LETTERS[letter]} A{index:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
                    f"  1.00  0.00          {atom[0]:>2s}"
                )
        lines.append(f"TER   {serial + 1:5d}      {THREE_LETTERS[letters[-1]]} A{len(letters):4d}")
        if len(models) > 1:
            lines.append("ENDMDL")
    return "\n".join(f"{line:<80s}" for line in [*lines, "END"]) + "\n"


def _pieces(chain: gemmi.Chain) -> Iterator[tuple[int, str, Tensor]]:
    """First residue's number, letters and atoms of each piece without gaps."""
    letters, atoms, first = "", [], 0
    for residue in chain.first_conformer():
        kind = gemmi.find_tabulated_residue(residue.name)
        if not kind.is_amino_acid():
            continue
        found = [residue.find_atom(name, "*") for name in ATOMS]
        here = torch.tensor([atom.pos.tolist() for atom in found]) if all(found) else None
        if letters and (here is None or not BOND[0] < float((here[0] - atoms[-1][2]).norm()) < BOND[1]):
            yield first, letters, torch.stack(atoms)
            letters, atoms = "", []
        if here is not None:
            first = first if letters else residue.seqid.num or 0
            letters += kind.one_letter_code.strip().upper() or "X"
            atoms.append(here)
    if letters:
        yield first, letters, torch.stack(atoms)
