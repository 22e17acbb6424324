"""Protein backbones by way of sidechainnet: whole chains, and endless random crops of them with noise.

A backbone is a sequence of points, three per residue (N, CA, C). Every point carries

* a token: `3 * residue type + atom`, with the residue types of sidechainnet's vocabulary (20 and "unknown");
* a position along the chain: `3 * residue number + atom`, so bonded atoms differ by one. Residues that are missing keep
  their number, and a break that the numbers do not tell (C and the next N more than `MAX_BOND` Å apart) adds `BREAK`,
  so that no gap is ever taken for a bond.

Coordinates are in Å.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # pkg_resources' deprecation, ProDy's greeting
    warnings.simplefilter("ignore")
    import sidechainnet
    from sidechainnet.dataloaders.ProteinBatch import ProteinBatch
    from sidechainnet.dataloaders.SCNProtein import SCNProtein
    from sidechainnet.utils.sequence import VOCAB

ATOMS = ("N", "CA", "C")
NUM_TOKENS = len(ATOMS) * len(VOCAB)
MAX_BOND = 2.0  # Å; a peptide bond C-N is 1.33 Å long
BREAK = 10_000
MAX_RESIDUES = 384


class DataError(ValueError):
    """The data file cannot be found, read, or used."""


@dataclass(frozen=True)
class Backbone:
    """A chain, or a piece of one: `points = 3 * residues`."""

    name: str
    tokens: Tensor  # (points,) int64
    positions: Tensor  # (points,) int64
    coords: Tensor  # (points, 3), Å; zero where missing
    mask: Tensor  # (points,) bool; False where missing

    def residues(self, start: int, stop: int) -> Backbone:
        """Residues start … stop - 1."""
        points = slice(len(ATOMS) * start, len(ATOMS) * stop)
        return Backbone(self.name, self.tokens[points], self.positions[points], self.coords[points], self.mask[points])


@dataclass(frozen=True)
class Splits:
    """sidechainnet's entries; `valid` joins all splits of that name (downloads have valid-10 … valid-90)."""

    train: list[SCNProtein]
    valid: list[SCNProtein]
    test: list[SCNProtein]


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and plain Python values, and refuses whatever else a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer"}
        if module.partition(".")[0] == "numpy" and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not data")


def _check(path: Path) -> None:
    """Raises unless `path` is a pickle of arrays with a train split.

    Unpickling can run code, and sidechainnet answers a pickle that it cannot read by downloading another data set; so
    a file of the user's is looked at here first.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file).load()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"{path} is not a sidechainnet pickle: {error}") from error
    if not isinstance(content, dict) or "train" not in content:
        raise DataError(f"{path} is not a sidechainnet pickle: it has no train split")


def _split(dataset: Any) -> Splits:
    """Entries with at least one residue, by split."""

    def entries(prefix: str) -> list[SCNProtein]:
        names = [name for name in dataset.splits if name.startswith(prefix)]
        found = [protein for name in names for protein in dataset.get_protein_list_by_split_name(name)]
        return [protein for protein in found if "+" in protein.mask]

    splits = Splits(entries("train"), entries("valid"), entries("test"))
    for name, proteins in vars(splits).items():
        if not proteins:
            raise DataError(f"the data have no {name} chain")
    return splits


def load_file(path: Path) -> Splits:
    """The chains of a local pickle in sidechainnet's format."""
    _check(path)
    try:
        with redirect_stdout(io.StringIO()):  # it prints where it loaded from
            return _split(sidechainnet.load(local_scn_path=str(path)))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is not a sidechainnet pickle: {type(error).__name__} {error}") from error


def download(casp_version: int, thinning: int, folder: Path) -> Splits:
    """The chains of a published SidechainNet, from `folder` if they are there, otherwise from the network.

    sidechainnet itself gets and loads these pickles. As any pickle they could run code, and they come over plain http.
    """
    try:
        return _split(sidechainnet.load(casp_version=casp_version, casp_thinning=thinning, scn_dir=str(folder)))
    except OSError as error:
        raise DataError(f"SidechainNet CASP {casp_version}, thinning {thinning}, cannot be had: {error}") from error
    except (pickle.UnpicklingError, EOFError, KeyError) as error:
        raise DataError(f"the download in {folder} is damaged ({error}): delete it and try again") from error


def read_backbone(protein: SCNProtein) -> Backbone:
    """The backbone of a sidechainnet entry, centred."""
    batch: Any = ProteinBatch([protein])
    coords = batch.coords[0, :, : len(ATOMS)]  # (residues, 3 atoms, 3)
    known = coords.isfinite().all(-1) & (coords != 0).any(-1)  # older files are padded with zeros, not NaN
    mask = batch.masks[0].bool()[:, None] & known  # (residues, 3 atoms)
    bond = (coords[1:, 0] - coords[:-1, 2]).norm(dim=-1)  # from a C to the next N
    broken = (bond > MAX_BOND) & known[1:, 0] & known[:-1, 2]
    breaks = torch.nn.functional.pad(broken.cumsum(0), (1, 0))
    atom = torch.arange(len(ATOMS))
    number = torch.arange(len(coords)) + BREAK * breaks
    points = coords.flatten(0, 1).nan_to_num(0.0) * mask.flatten()[:, None]
    centre = points.sum(0) / mask.sum().clamp(min=1)
    return Backbone(
        name=str(protein.id),
        tokens=(len(ATOMS) * batch.seqs_int[0][:, None] + atom).flatten(),
        positions=(len(ATOMS) * number[:, None] + atom).flatten(),
        coords=(points - centre) * mask.flatten()[:, None],
        mask=mask.flatten(),
    )


def residue_type(token: int) -> str:
    """The one-letter code behind a token; X for an unknown residue."""
    letter = VOCAB.int2char(token // len(ATOMS))
    return "X" if letter == VOCAB.pad_char else letter


def draw_crop(
    protein: SCNProtein, generator: torch.Generator, length: int, noise: float, hidden: float = 0.0
) -> dict[str, Tensor]:
    """A training sample: `length` residues around a random one that is there, padded, and noise for their points. A
    share `hidden` of the residues is of unknown type.

    Returns tokens, positions, mask (3 length,), and coords, noise (3 length, 3).
    """
    chain = read_backbone(protein)
    there = chain.mask.nonzero()[:, 0]
    middle = 0
    if len(there):
        middle = int(there[torch.randint(len(there), (), generator=generator)]) // len(ATOMS)
    last_start = max(len(chain.mask) // len(ATOMS) - length, 0)
    start = min(max(middle - length // 2, 0), last_start)
    crop = chain.residues(start, start + length)
    padding = len(ATOMS) * length - len(crop.mask)
    pad = torch.nn.functional.pad
    tokens = pad(crop.tokens, (0, padding))
    if hidden:
        chosen = torch.rand(length, generator=generator) < hidden
        unknown = NUM_TOKENS - len(ATOMS) + tokens % len(ATOMS)
        tokens = torch.where(chosen.repeat_interleave(len(ATOMS)), unknown, tokens)
    return {
        "tokens": tokens,
        "positions": pad(crop.positions, (0, padding)),
        "mask": pad(crop.mask, (0, padding)),
        "coords": pad(crop.coords, (0, 0, 0, padding)),
        "noise": noise * torch.randn(len(ATOMS) * length, 3, generator=generator),
    }


def some_chains(proteins: list[SCNProtein], count: int) -> list[Backbone]:
    """Up to `count` chains, spread evenly over the list, of at most `MAX_RESIDUES` residues.

    Those without a point of the backbone are left out: nothing can be said of how much noise is left on them.

    Raises:
        DataError: there is no other.
    """
    count = min(count, len(proteins))
    chosen = [proteins[i * len(proteins) // count] for i in range(count)]
    chains = [read_backbone(protein).residues(0, MAX_RESIDUES) for protein in chosen]
    found = [chain for chain in chains if chain.mask.any()]
    if not found:
        raise DataError(f"none of {', '.join(chain.name for chain in chains)} has an atom {', '.join(ATOMS)}")
    return found


def fixed_noise(chain: Backbone, noise: float) -> Tensor:
    """Noise (points, 3) that depends on the chain's name only, so that all runs are measured on the same."""
    generator = torch.Generator().manual_seed(zlib.crc32(chain.name.encode()))
    return noise * torch.randn(chain.coords.shape, generator=generator)
