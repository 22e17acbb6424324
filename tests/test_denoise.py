"""`denoise.py`'s parts: chains and their gaps, crops, model, baselines, report."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sidechainnet", reason="needs the extra examples")

import numpy as np
import prody
import requests
import torch
from Bio.Align import PairwiseAligner, substitution_matrices

from benchmarks.quality import FRESH, fresh_chains
from equiformer_pytorch.training import MetricsFile
from equiformer_pytorch.training.loop import COLUMNS
from examples.denoising import data, evaluate, report
from examples.denoising.model import BackboneDenoiser, chain_relations, denoising_loss, variance_left
from examples.denoising.settings import SHIPPED


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.load_file(SHIPPED)


@pytest.fixture
def protein(splits: data.Splits) -> data.SCNProtein:
    """A chain to be changed at will."""
    original = splits.test[0]
    return data.SCNProtein(
        coordinates=np.array(original.coords), sequence=original.seq, mask=original.mask, id=original.id, split="test"
    )


def coordinates_of(protein: data.SCNProtein) -> np.ndarray:
    assert isinstance(protein.coords, np.ndarray)
    return protein.coords


def small_denoiser() -> BackboneDenoiser:
    torch.manual_seed(0)
    model = BackboneDenoiser(
        data.NUM_TOKENS,
        dim=(8, 4),
        depth=1,
        heads=2,
        dim_head=4,
        neighbors=4,
        chain_reach=2,
        networks=2,
        start_reach=2,
    )
    with torch.no_grad():
        for weight in model.parameters():  # the last layers begin at zero
            weight += 0.1 * torch.randn_like(weight)
    return model


# ---- chains


def test_shipped_chains(splits: data.Splits) -> None:
    assert SHIPPED.stat().st_size < 5_000_000
    names = [[protein.id for protein in proteins] for proteins in vars(splits).values()]
    assert [len(split) for split in names] == [40, 4, 6]
    assert len({name for split in names for name in split}) == 50
    for protein in (*splits.train, *splits.valid, *splits.test):
        chain = data.read_backbone(protein)
        assert chain.mask.all()
        assert chain.tokens.min() >= 0
        assert chain.tokens.max() < data.NUM_TOKENS
        bonds = chain.coords.diff(dim=0).norm(dim=-1)[chain.positions.diff() == 1]
        assert len(bonds) == 3 * len(protein) - 1
        assert bonds.min() > 1.2
        assert bonds.max() < data.MAX_BOND
        assert chain.coords.mean(0).abs().max() < 1e-4


def test_fresh_chains(splits: data.Splits) -> None:
    """Whole, and no relatives of the shipped chains nor of each other: two random sequences score up to about 50."""
    assert FRESH.stat().st_size < 700_000
    fresh = fresh_chains()
    assert len(fresh) == 12
    for protein in fresh:
        chain = data.read_backbone(protein)
        assert chain.mask.all()
        assert 60 <= len(protein) <= 250
        assert chain.positions.diff().eq(1).all()
    aligner = PairwiseAligner(
        mode="local",
        substitution_matrix=substitution_matrices.load("BLOSUM62"),
        open_gap_score=-11,
        extend_gap_score=-1,
    )
    for i, protein in enumerate(fresh):
        for other in (*fresh[:i], *splits.train, *splits.valid, *splits.test):
            assert aligner.score(protein.seq, other.seq) < 60, (protein.id, other.id)


def test_missing_residues_are_no_bond(protein: data.SCNProtein) -> None:
    protein.int_mask[10:13] = [0, 0, 0]
    coordinates_of(protein)[20, 1] = np.nan  # one CA
    chain = data.read_backbone(protein)
    missing = (~chain.mask).nonzero()[:, 0].tolist()
    assert missing == [*range(30, 39), 61]
    assert torch.equal(chain.coords[missing], torch.zeros(10, 3))
    assert chain.positions[39] - chain.positions[29] == 10  # numbers count what is missing
    edges, adjacency = chain_relations(chain.positions[None], chain.mask[None], reach=4)
    assert not adjacency[0, missing].any()
    assert not adjacency[0, :, missing].any()
    assert not adjacency[0, :30, 39:].any()
    assert adjacency[0, 60, 62]
    assert edges[0, 60, 62] == 4 + 2


def test_breaks_are_no_bond(protein: data.SCNProtein) -> None:
    """A gap of which neither mask nor numbers tell: the rest of the chain is 10 Å away."""
    coordinates_of(protein)[30:] += 10
    chain = data.read_backbone(protein)
    edges, adjacency = chain_relations(chain.positions[None], chain.mask[None], reach=6)
    assert not adjacency[0, :90, 90:].any()
    assert not adjacency[0, 90:, :90].any()
    assert (edges[0, :90, 90:] == 13).all()
    assert adjacency[0, 89, 83]
    assert adjacency[0, 90, 96]


def test_relations_of_a_short_chain() -> None:
    positions, mask = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[True, True, True, False]])
    edges, adjacency = chain_relations(positions, mask, reach=1)
    assert edges.tolist() == [[[1, 2, 3, 3], [0, 1, 2, 3], [3, 0, 1, 3], [3, 3, 3, 3]]]
    assert adjacency.int().tolist() == [[[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]]


# ---- files


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="No such file"):
        data.load_file(tmp_path / "none.pkl")


class Harmful:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({"train": {"seq": []}})])
def test_unusable_file(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "get", lambda *args, **more: pytest.fail("tried to download"))
    path = tmp_path / "chains.pkl"
    path.write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        data.load_file(path)
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "chains.pkl"
    path.write_bytes(SHIPPED.read_bytes()[:100_000])
    with pytest.raises(data.DataError, match="not a sidechainnet pickle"):
        data.load_file(path)


def test_harmful_file_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chains.pkl"
    path.write_bytes(pickle.dumps({"train": Harmful(tmp_path / "made")}))
    with pytest.raises(data.DataError, match="which is not data"):
        data.load_file(path)
    assert not (tmp_path / "made").exists()


def test_download_is_read_from_its_folder(tmp_path: Path, splits: data.Splits) -> None:
    """The same code path as a download, with the file there already; its splits named as in the published sets."""
    content = pickle.loads(SHIPPED.read_bytes())
    content["valid-10"] = content.pop("valid")
    (tmp_path / "sidechainnet_casp12_30.pkl").write_bytes(pickle.dumps(content))
    downloaded = data.download(12, 30, tmp_path)
    for left, right in zip(vars(splits).values(), vars(downloaded).values(), strict=True):
        assert [protein.id for protein in left] == [protein.id for protein in right]


def test_download_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(data.DataError, match="CASP 11, thinning 50, cannot be had: no network"):
        data.download(11, 50, tmp_path)


# ---- crops and noise


def test_crop_is_a_piece_of_the_chain(splits: data.Splits) -> None:
    protein = splits.train[0]
    chain = data.read_backbone(protein)
    starts, crop = set(), {}
    for seed in range(20):
        crop = data.draw_crop(protein, torch.Generator().manual_seed(seed), length=16, noise=2.0)
        again = data.draw_crop(protein, torch.Generator().manual_seed(seed), length=16, noise=2.0)
        assert all(torch.equal(crop[name], again[name]) for name in crop)
        start = int(crop["positions"][0])
        assert torch.equal(crop["coords"], chain.coords[start : start + 48])
        assert torch.equal(crop["tokens"], chain.tokens[start : start + 48])
        starts.add(start)
    assert len(starts) > 5
    assert 1.5 < crop["noise"].std() < 2.5


def test_hidden_residues_are_of_unknown_type(splits: data.Splits) -> None:
    drawn = [data.draw_crop(splits.train[0], torch.Generator().manual_seed(0), 32, 1.0, share) for share in (0, 0.5, 1)]
    none, some, all_ = (crop["tokens"].view(32, 3) for crop in drawn)
    assert {data.residue_type(token) for token in all_.flatten().tolist()} == {"X"}
    hidden = (some != none).any(1)
    assert 5 < hidden.sum() < 27
    assert torch.equal(some[hidden], all_[hidden])
    assert torch.equal(some[~hidden], none[~hidden])
    assert torch.equal(drawn[0]["coords"], drawn[1]["coords"])


def test_crop_of_a_chain_that_is_too_short_is_padded(splits: data.Splits) -> None:
    protein = splits.train[0]
    crop = data.draw_crop(protein, torch.Generator(), length=100, noise=1.0)
    assert crop["mask"].sum() == 3 * len(protein)
    assert {name: tuple(value.shape) for name, value in crop.items()} == {
        "tokens": (300,), "positions": (300,), "mask": (300,), "coords": (300, 3), "noise": (300, 3)
    }  # fmt: skip


def test_crops_are_where_residues_are(protein: data.SCNProtein) -> None:
    protein.int_mask = [0] * len(protein)
    protein.int_mask[5] = 1
    crop = data.draw_crop(protein, torch.Generator(), length=4, noise=1.0)
    assert crop["mask"].sum() == 3


def test_held_out_chains_and_their_noise_are_fixed(splits: data.Splits) -> None:
    chains = data.some_chains(splits.test, 3)
    assert [chain.name for chain in chains] == [splits.test[i].id for i in (0, 2, 4)]
    assert len(data.some_chains(splits.test, 100)) == 6
    first, second = (data.fixed_noise(chain, 1.0) for chain in chains[:2])
    assert torch.equal(first, data.fixed_noise(chains[0], 1.0))
    assert not torch.equal(first[:9], second[:9])


# ---- model


def test_chains_without_an_atom_are_left_out(protein: data.SCNProtein, splits: data.Splits) -> None:
    coordinates_of(protein)[:, :3] = np.nan
    (chain,) = data.some_chains([protein, splits.test[1]], 2)
    assert chain.name == splits.test[1].id
    with pytest.raises(data.DataError, match="has an atom N, CA, C"):
        data.some_chains([protein], 1)


def test_denoiser_is_equivariant_and_ignores_padding(splits: data.Splits) -> None:
    model = small_denoiser().double().eval()
    chain = data.read_backbone(splits.test[0]).residues(0, 12)
    coords = (chain.coords + data.fixed_noise(chain, 1.0)).double()
    inputs = [tensor[None] for tensor in (chain.tokens, coords, chain.positions, chain.mask)]
    moved = model(*inputs)
    assert moved.shape == (2, 1, 36, 3)  # where each network leaves the points
    start = model.start(*inputs)
    for before, after in itertools.pairwise((start, *moved)):
        assert (after - before).abs().max() > 1e-3
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turn *= torch.det(turn)
    torch.testing.assert_close(model(inputs[0], inputs[1] @ turn + 5, *inputs[2:]), moved @ turn)
    padded = [torch.cat((tensor, tensor[:, :4]), 1) for tensor in inputs]
    padded[3][:, -4:] = False
    torch.testing.assert_close(model(*padded)[:, :, :36], moved)


def test_each_network_sees_where_the_one_before_left_the_points(splits: data.Splits) -> None:
    model = small_denoiser().eval()
    seen = []
    for net in (*model.earlier, model.net):
        net.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    chain = data.read_backbone(splits.test[0]).residues(0, 12)
    inputs = [tensor[None] for tensor in (chain.tokens, chain.coords, chain.positions, chain.mask)]
    first, _ = model(*inputs)
    torch.testing.assert_close(seen[0], inputs[1] + model.start(*inputs))
    torch.testing.assert_close(seen[1], inputs[1] + first)


def test_loss_is_of_all_networks(splits: data.Splits) -> None:
    crop = data.draw_crop(splits.train[0], torch.Generator().manual_seed(0), length=8, noise=1.0)
    batch = {name: value[None] for name, value in crop.items()}
    found = torch.stack([share * batch["noise"] for share in (-0.5, -0.8, -0.9)])
    fixed = torch.nn.Module()
    fixed.forward = lambda *_: found
    assert float(denoising_loss(fixed, batch)) == pytest.approx(0.1**2 + 0.3 * (0.2**2 + 0.5**2), rel=1e-4)


def test_variance_left() -> None:
    noise = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    predicted = torch.where(mask[..., None], -0.5 * noise, 100.0)
    torch.testing.assert_close(variance_left(predicted, noise, mask), torch.full((2,), 0.25))


# ---- evaluation


def test_baselines(splits: data.Splits) -> None:
    train = [data.read_backbone(protein) for protein in splits.train]
    test = data.some_chains(splits.test, 6)
    nothing = evaluate.score(evaluate.predict_nothing, test, 1.0)
    assert nothing.variance_left == pytest.approx(1)
    assert nothing.rmsd == pytest.approx(3**0.5, rel=0.02)
    linear = evaluate.LinearPredictor(train, 1.0)
    assert evaluate.score(linear, test, 1.0).variance_left == pytest.approx(0.30, abs=0.01)

    # no other weights do better on the chains that they were fitted to
    fitted = evaluate.score(linear, train, 1.0).variance_left
    weights = linear.map.weights.data
    for atom in range(3):
        weights[atom, 2] += 0.05
        assert evaluate.score(linear, train, 1.0).variance_left > fitted
        weights[atom, 2] -= 0.05


def test_rmsd_is_after_superposition(splits: data.Splits) -> None:
    coords = data.read_backbone(splits.test[0]).coords
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    turn *= torch.det(turn)
    assert evaluate.rmsd(coords @ turn + 3, coords) < 1e-4
    assert evaluate.rmsd(-coords, coords) > 1  # a mirror image is no superposition


def test_geometry_of_real_chains(splits: data.Splits) -> None:
    """Against Engh & Huber's (1991) mean bonds and angles."""
    chains = data.some_chains(splits.test, 6)
    found = evaluate.geometry(chains, [chain.coords for chain in chains])
    ideal = {"N-CA": 1.458, "CA-C": 1.525, "C-N": 1.329, "N-CA-C": 111.2, "CA-C-N": 116.2, "C-N-CA": 121.7}
    for name, value in ideal.items():
        mean, spread = found[name]
        assert mean == pytest.approx(value, rel=0.01)
        assert spread < 0.03 * value


# ---- report


def test_pdb_file_is_read_back_by_another_program(tmp_path: Path, protein: data.SCNProtein) -> None:
    protein.int_mask[3] = 0
    coordinates_of(protein)[30:] += 100  # a break, and coordinates of seven columns
    chain = data.read_backbone(protein)
    path = tmp_path / "chain.pdb"
    path.write_text(report.pdb_text(chain, chain.coords, "a title"))
    assert {len(line) for line in path.read_text().splitlines()} == {80}
    read: Any = prody.parsePDB(str(path))
    np.testing.assert_allclose(read.getCoords(), chain.coords[chain.mask], atol=6e-4)
    assert read.getNames().tolist() == [name for _ in range(len(protein) - 1) for name in ("N", "CA", "C")]
    assert read.select("name CA").getResnums().tolist() == [n + 1 for n in range(len(protein)) if n != 3]
    whole = str(protein.seq)
    sequence = whole[:3] + whole[4:]
    assert read.select("name CA").getSequence() == sequence
    assert set(read.getElements()) == {"N", "C"}


def test_report_of_chains_of_ca_alone(tmp_path: Path, protein: data.SCNProtein, splits: data.Splits) -> None:
    coordinates_of(protein)[:, [0, 2]] = np.nan
    chain = dataclasses.replace(data.read_backbone(protein), name="TBM/FM")
    metrics = MetricsFile(tmp_path / "metrics.csv", COLUMNS, 0)
    metrics.write(step=1, train=1.0)
    metrics.close()
    for residues in (10, 2, 1):
        test = [chain.residues(0, residues), *data.some_chains(splits.test, 1)]
        report.write_report(tmp_path, evaluate.predict_nothing, evaluate.predict_nothing, test, 1.0)
        read: Any = prody.parsePDB(str(tmp_path / "TBM-FM-true.pdb"))
        assert read.numAtoms() == residues
        assert "nothing done                              1.000" in (tmp_path / "evaluation.txt").read_text()
        for picture in ("backbone.png", "loss.png"):
            (tmp_path / picture).unlink()
