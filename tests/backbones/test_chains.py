"""The chains that are shipped, how chains are read from files, and what is said of files that will not do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("gemmi", reason="needs the extra backbones")
pytest.importorskip("tmtools", reason="needs the extra backbones")

import gemmi
import torch

from examples.backbones import run, sources, structures
from examples.backbones.chains import SHIPPED, Chain, Chains, load_chains, save_chains
from examples.backbones.geometry import atoms_of, bonds, grow
from examples.backbones.measures.folds import tm_score
from examples.backbones.settings import Settings
from examples.backbones.split import SplitError, split_by_fold

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="module")
def chains() -> Chains:
    return load_chains()


def helix(length: int, name: str = "helix") -> Chain:
    torsions = torch.deg2rad(torch.tensor([-63.0, -42.0, 180.0])).expand(length, 3)
    return Chain(name, "A" * length, atoms_of(grow(torsions)))


def test_shipped(chains: Chains) -> None:
    members = [chain for split in vars(chains).values() for chain in split]
    assert SHIPPED.stat().st_size < 5e6
    assert len({chain.name for chain in members}) == len(members) == 186
    assert len({chain.sequence for chain in members}) == len(members)
    assert [len(split) for split in vars(chains.compact()).values()] == [97, 10, 25]
    for chain in members:
        assert chain.coords.shape == (len(chain), 4, 3)
        assert chain.coords.dtype == torch.float32
        lengths = bonds(chain.coords)
        assert float((lengths["C–N"] - 1.33).abs().max()) < 0.25, chain.name  # without gaps
    assert all(chain.compactness < 1.3 for split in vars(chains.compact()).values() for chain in split)


def test_no_fold_is_on_both_sides(chains: Chains) -> None:
    """A sample of the pairs; the script looked at all of them."""
    for chain in sorted(chains.test, key=len)[:1]:
        assert max(tm_score(chain.coords, other.coords) for other in chains.train[::5]) < 0.5


def test_saved_and_loaded(chains: Chains, tmp_path: Path) -> None:
    few = Chains(chains.train[-2:], chains.valid[-1:], chains.test[-1:])
    save_chains(few, tmp_path / "few.npz")
    again = sources.load(tmp_path / "few.npz")
    for split, found in vars(again).items():
        for one, other in zip(getattr(few, split), found, strict=True):
            assert (one.name, one.sequence) == (other.name, other.sequence)
            torch.testing.assert_close(one.coords, other.coords, atol=1e-4, rtol=0)


def test_pdb_files_are_read_back_by_gemmi(chains: Chains, tmp_path: Path) -> None:
    chain = chains.test[-1]
    models = [chain.coords, chain.coords + 1.0]
    path = tmp_path / "chain.pdb"
    path.write_text(structures.pdb_text(models, chain.sequence))
    read = gemmi.read_structure(str(path))
    assert len(read) == 2
    for model, coords in zip(read, models, strict=True):
        found = torch.tensor([[atom.pos.tolist() for atom in residue] for residue in model["A"]])
        assert float((found - coords).abs().max()) < 1e-3
    assert gemmi.one_letter_code([residue.name for residue in read[0]["A"]]) == chain.sequence
    again = structures.read_chain(path)
    assert again.sequence == chain.sequence
    assert float((again.coords - chain.coords).abs().max()) < 1e-3


def test_models_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"models must be of shape \(5, 4, 3\) each, got \(5, 4, 3\), \(6, 4, 3\)"):
        structures.pdb_text([helix(5).coords, helix(6).coords])


def written(path: Path, chain: Chain) -> list[str]:
    path.write_text(structures.pdb_text([chain.coords], chain.sequence))
    return path.read_text().splitlines()


def test_gaps_and_several_chains_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.pdb"
    lines = written(path, helix(20))
    gap = tmp_path / "gap.pdb"
    gap.write_text("\n".join(line for line in lines if line[22:26].strip() not in ("8", "9")))
    with pytest.raises(
        structures.StructureError, match=r"chain A of .*gap\.pdb has gaps, before residue 10: .* wanted"
    ):
        structures.read_chain(gap)
    assert [len(piece) for piece in structures.read_pieces(gap)["A"]] == [7, 11]

    both = tmp_path / "both.pdb"
    both.write_text("\n".join(lines[:-1] + [line[:21] + "B" + line[22:] for line in lines[1:]]))
    with pytest.raises(structures.StructureError, match=r"has 2 chains \(A, B\): name the one that is wanted"):
        structures.read_chain(both)
    assert len(structures.read_chain(both, "B")) == 20
    with pytest.raises(structures.StructureError, match=r"no protein chain 'C'; it has A, B"):
        structures.read_chain(both, "C")

    no_oxygen = tmp_path / "no_oxygen.pdb"
    no_oxygen.write_text("\n".join(line for line in lines if line[12:16].strip() != "O"))
    with pytest.raises(structures.StructureError, match="no protein chain with N, CA, C, O of its residues"):
        structures.read_chain(no_oxygen)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(structures.StructureError, match="does not exist"):
        sources.load(tmp_path / "nothing")
    with pytest.raises(structures.StructureError, match="has no structure files"):
        sources.load(tmp_path)
    written(tmp_path / "short.pdb", helix(20))
    with pytest.raises(structures.StructureError, match=r"1 files of .* have no piece of 40 residues"):
        sources.load(tmp_path)
    written(tmp_path / "long.pdb", helix(50))
    with pytest.raises(SplitError, match="1 chains cannot be split by fold: none is left for valid and test"):
        sources.load(tmp_path)


def test_pickles_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged.pkl").write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "examples.denoising.data", None)
    with pytest.raises(structures.StructureError, match=r"examples\.denoising\.data is missing: pip install"):
        sources.load(tmp_path / "damaged.pkl")
    monkeypatch.undo()
    pytest.importorskip("sidechainnet", reason="needs the extra examples")
    with pytest.raises(structures.StructureError, match=r"damaged\.pkl is not a sidechainnet pickle"):
        sources.load(tmp_path / "damaged.pkl")


def test_chains_none_of_which_is_compact(tmp_path: Path) -> None:
    one = helix(60)
    save_chains(Chains((one,), (one,), (one,)), tmp_path / "long.npz")
    with pytest.raises(structures.StructureError, match=r"of 1 chains to train on 0 are compact, of 1 to validate 0"):
        run.load_chains(Settings(data=str(tmp_path / "long.npz")))


def test_mmcif_of_a_folder(chains: Chains, tmp_path: Path) -> None:
    chain = chains.test[-1]
    structure = gemmi.read_pdb_string(structures.pdb_text([chain.coords], chain.sequence))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "one.cif"))
    (found,) = structures.read_folder(tmp_path, 40)
    assert found.sequence == chain.sequence
    assert float((found.coords - chain.coords).abs().max()) < 1e-3


def test_split_by_fold_keeps_copies_together(chains: Chains) -> None:
    """A copy, slightly moved, goes where the chain goes."""
    some = [chain for chain in chains.test if 60 <= len(chain) <= 90][:4]
    copies = [Chain(f"{chain.name} again", chain.sequence, chain.coords + 0.2) for chain in some]
    split = split_by_fold([*some, *copies], {"valid": 2, "test": 2})
    where = {chain.name: name for name, members in vars(split).items() for chain in members}
    assert {len(members) for members in vars(split).values()} == {2, 4}
    for chain in some:
        assert where[chain.name] == where[f"{chain.name} again"]


@pytest.mark.slow
def test_sidechainnet_gives_the_same_chains(chains: Chains) -> None:
    pytest.importorskip("sidechainnet", reason="needs the extra examples")
    found = sources.load(DATA / "backbones.pkl")
    assert [len(split) for split in vars(found).values()] == [41, 4, 6]  # of 40, 4 and 6: one has a break
    known = {chain.sequence: chain for split in vars(chains).values() for chain in split}
    for chain in found.test:
        ours = known[chain.sequence].coords
        torch.testing.assert_close(chain.coords - chain.coords.mean((0, 1)), ours, atol=1e-3, rtol=0)
