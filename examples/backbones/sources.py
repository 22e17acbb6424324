"""Where chains to train on come from: what is shipped, a folder of structure files, or SidechainNet."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.backbones.chains import ATOMS, Chain, Chains, load_chains
from examples.backbones.split import split_by_fold
from examples.backbones.structures import BOND, StructureError, read_folder

SHORTEST = 40  # residues of a piece


def load(path: Path) -> Chains:
    """The chains of an .npz file of `save_chains`, of a folder of structure files, or of a pickle of SidechainNet.

    Chains of a folder are split by fold, which compares held-out chains with all others: minutes for some hundred
    files. `save_chains` keeps the result. A pickle has its own splits.

    Raises:
        StructureError: if there is no such file or folder, it cannot be read, or it has no usable chain; or if a pickle
            is given and sidechainnet is not installed.
        SplitError: if a folder has too few folds to be split.
    """
    if path.is_dir():
        return split_by_fold(read_folder(path, SHORTEST))
    if not path.exists():
        raise StructureError(f"{path} does not exist: an .npz file, a folder of structure files, or a .pkl is wanted")
    if path.suffix == ".npz":
        return load_chains(path)
    data = _sidechainnet()
    try:
        return _of_splits(data.load_file(path))
    except data.DataError as error:
        raise StructureError(str(error)) from error


def download(casp_version: int, thinning: int, folder: Path) -> Chains:
    """The chains of a published SidechainNet, from `folder` if they are there, otherwise from the network.

    Raises:
        StructureError: if the download fails or is damaged, or sidechainnet is not installed.
    """
    data = _sidechainnet()
    try:
        return _of_splits(data.download(casp_version, thinning, folder))
    except data.DataError as error:
        raise StructureError(str(error)) from error


def _sidechainnet() -> Any:
    """What reads and downloads its files (`examples.denoising.data`)."""
    try:
        return import_module("examples.denoising.data")
    except ModuleNotFoundError as error:
        raise StructureError(f'the package {error.name} is missing: pip install -e ".[examples]"') from error


def _of_splits(splits: Any) -> Chains:
    """The pieces of sidechainnet's entries."""
    found = {name: tuple(_pieces(proteins)) for name, proteins in vars(splits).items()}
    empty = [name for name, chains in found.items() if not chains]
    if empty:
        raise StructureError(f"no chain of the {' and '.join(empty)} split has {SHORTEST} residues without a gap")
    return Chains(**found)


def _pieces(proteins: Iterable[Any]) -> Iterable[Chain]:
    """The pieces without gaps of sidechainnet's entries that are long enough."""
    from sidechainnet.dataloaders.ProteinBatch import ProteinBatch

    for protein in proteins:
        batch: Any = ProteinBatch([protein])
        coords = batch.coords[0, :, : len(ATOMS)].float()
        known = coords.isfinite().all(-1) & (coords != 0).any(-1)  # older files are padded with zeros, not NaN
        there = known.all(-1) & batch.masks[0].bool()
        for start, stop in _runs(coords, there):
            if stop - start >= SHORTEST:
                letters = "".join(str(protein.seq)[start:stop])
                yield Chain(f"{protein.id}_{start + 1}", letters, coords[start:stop].clone())


def _runs(coords: Tensor, there: Tensor) -> Iterable[tuple[int, int]]:
    """First residue, and the one after the last, of each run of bonded residues."""
    bond = (coords[1:, 0] - coords[:-1, 2]).norm(dim=-1)
    bonded = there[1:] & there[:-1] & (bond > BOND[0]) & (bond < BOND[1])
    edges = torch.nn.functional.pad(bonded, (1, 1)).int().diff()  # 1 where a run of bonds starts, -1 where one ends
    starts, stops = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    yield from ((start, stop + 1) for start, stop in zip(starts, stops, strict=True))
