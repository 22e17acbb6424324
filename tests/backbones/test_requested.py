"""Whether a backbone is what was asked for: on backbones of which it is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("pydssp", reason="needs the extra backbones")
pytest.importorskip("tmtools", reason="needs the extra backbones")
pytest.importorskip("gemmi", reason="needs the extra backbones")

import torch
from torch import Tensor

from equiformer_pytorch.training.samples import generator_for
from examples.backbones import making, trials
from examples.backbones.chains import load_chains
from examples.backbones.geometry import Frames, atoms_of, frames_of, grow
from examples.backbones.measures import local
from examples.backbones.measures.requested import agreement, ca_rmsd, motif_found
from examples.backbones.sampling import Plan, Task
from tests.backbones.models import small_network

HELIX = atoms_of(grow(torch.deg2rad(torch.tensor([-63.0, -42.0, 180.0])).expand(20, 3)))
TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q


def turned(coords: Tensor) -> Tensor:
    return coords @ (TURN * torch.linalg.det(TURN)).T + 7.0


def known(*places: int) -> Tensor:
    return torch.zeros(20, dtype=torch.bool).index_fill(0, torch.tensor(places), True)


def test_a_motif_that_is_there_however_it_is_turned() -> None:
    where = known(5, 6, 7, 8)
    found = motif_found(turned(HELIX), HELIX[where], where)
    assert found.rmsd < 1e-3
    assert found.junction == pytest.approx(1.33, abs=1e-3)
    assert found.ca_clashes == found.atom_clashes == 0


def test_a_motif_that_was_moved_and_a_bond_that_was_stretched() -> None:
    where = known(5, 6, 7, 8)
    motif = HELIX[where].clone()
    motif[:2, :3] += torch.tensor([0.0, 0.0, 0.4])  # half of the atoms: 0.2 Å each after superposition, or less
    assert 0.1 < motif_found(HELIX, motif, where).rmsd <= 0.2
    motif[:, 3] += 5.0  # O is none of the motif's
    assert motif_found(HELIX, motif, where).rmsd <= 0.2
    for cut in (5, 9):  # before and behind it
        stretched = HELIX.clone()
        bond = HELIX[cut, 0] - HELIX[cut - 1, 2]
        stretched[cut:] += 0.3 * bond / bond.norm()
        found = motif_found(stretched, HELIX[where], where)
        assert found.junction == pytest.approx(1.63, abs=1e-3)
        assert found.rmsd < 1e-3
        assert motif_found(stretched, HELIX[known(12, 13)], known(12, 13)).junction == pytest.approx(1.33, abs=1e-3)


def test_clashes_within_a_motif_are_not_new() -> None:
    broken = HELIX.clone()
    broken[6] = broken[10] + 0.5
    inside, outside = known(6, 7, 8, 9, 10), known(15, 16)
    every = local.atom_clashes(broken)
    assert every > 0
    assert motif_found(broken, broken[outside], outside).atom_clashes == every
    assert motif_found(broken, broken[inside], inside).atom_clashes < every
    assert local.ca_clashes(broken, known(6)) == local.ca_clashes(broken)
    assert local.ca_clashes(broken, known(0)) == local.atom_clashes(broken, known(0)) == 0


def test_agreement_with_requests_and_with_shuffled_ones() -> None:
    asked = [np.array(list(letters)) for letters in ("HHHH", "EEEE", "HH--")]
    found = [np.array(list(letters)) for letters in ("HHHH", "EE--", "HHHH")]
    shares = agreement(found, asked)
    assert shares.asked == pytest.approx((1 + 0.5 + 0.5) / 3)
    # HHHH with EEEE, HH--; EE-- with HHHH, HH--; HHHH with HHHH, EEEE
    assert shares.others == pytest.approx((0 + 0.5 + 0 + 0.5 + 1 + 0) / 6)
    assert shares.reordered == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (shares.helix, shares.strand, shares.coil) == (1.0, 0.5, 0.0)
    mixed = [np.array(list(letters)) for letters in ("HHEE", "EEHH")]
    assert agreement(mixed, mixed)[:3] == (1.0, 0.0, 0.5)
    for one, two in (([], []), (asked[:1], asked[:1]), (asked, asked[:2]), (asked, [*asked[:2], asked[0][:3]])):
        with pytest.raises(ValueError, match="found and asked must be two or more each, all as long"):
            agreement(one, two)


def test_distance_of_ca_alone() -> None:
    other = turned(HELIX)
    other[:, 0] += 3.0
    assert ca_rmsd(HELIX, other) < 1e-3
    other[::2, 1] += torch.tensor([0.0, 0.0, 0.5])
    assert 0.1 < ca_rmsd(HELIX, other) <= 0.25


def given_back(tasks: Sequence[Task]) -> list[Tensor]:
    """Instead of a generator: frames that are given, moved; without, ideal helices."""
    made = []
    for task in tasks:
        frames = task.frames or grow(torch.deg2rad(torch.tensor([-63.0, -42.0, 180.0])).expand(task.length, 3))
        made.append(turned(atoms_of(Frames(frames.rotation, frames.origin))))
    return made


def test_trials_ask_for_what_held_out_chains_have() -> None:
    chains = [chain for chain in load_chains().compact().valid if len(chain) >= trials.PIECE][-3:]
    for number in range(20):
        motif = trials.motif_of(chains[0], 2, generator_for("test", number))
        assert len(motif.coords) == len(motif.places) == 2 * trials.TWO
        steps = motif.places.diff()
        assert sorted(steps.tolist())[:-1] == [1] * (2 * trials.TWO - 2)
        assert trials.GAPS[0] < int(steps.max()) <= trials.GAPS[1] + 1
        assert int(motif.places[0]) > 0
        assert int(motif.places[-1]) < trials.BUILT - 1
    found = trials.trials(given_back, chains)
    assert set(found) == {"motifs", "structure", "variations"}
    one, _, free = found["motifs"].values()
    assert one["motif"] < 0.1  # what ideal residues leave
    assert one["junction"] > trials.GOOD_JUNCTION  # the others are all in one place
    assert one["good"] == 0
    assert one["atom_clashes"] > free["atom_clashes"] == 0
    shares = found["structure"]["structure"]
    assert shares["helix"] > 0.9
    assert shares["strand"] == 0
    for column in found["variations"].values():
        assert column["distance"] < 1e-2
        assert column["tm"] > 0.99
    for columns in found.values():
        assert {row for column in columns.values() for row in column} <= set(trials.ROWS)
    piece = trials.most_compact(chains[0], trials.PIECE)
    assert piece.shape == (trials.PIECE, 4, 3)
    assert any(torch.equal(piece, chains[0].coords[i : i + trials.PIECE]) for i in range(len(chains[0])))


def test_a_backbone_that_runs_into_its_motif_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """From other noise, with guidance alone, `TRIES` times at most; the others, and free ones, stay."""
    crossed = HELIX.clone()
    crossed[15, 1] = HELIX[6, 1] + 1.0  # a new residue within the motif
    asked = [Task(20, seed, known(5, 6, 7, 8), frames_of(HELIX)) for seed in (3, 4)] + [Task(20, 5)]
    calls: list[list[int]] = []

    def made_of(good_from: int) -> list[making.Made]:
        calls.clear()

        def sampled(_network: object, tasks: Sequence[Task], *_rest: object) -> list[Tensor]:
            calls.append([task.seed for task in tasks])
            return [HELIX if task.seed == 4 or len(calls) >= good_from else crossed for task in tasks]

        monkeypatch.setattr(making, "_sampled", sampled)
        return making.generate(small_network(), asked, plan, 8)

    plan = Plan()
    first, second, free = made_of(3)
    assert [len(seeds) for seeds in calls] == [3, 1, 1]
    assert len({seeds[0] for seeds in calls}) == 3
    assert first.tries == 3
    assert first.task.seed == calls[-1][0]
    assert torch.equal(first.coords, HELIX)
    assert (second.tries, second.task, free.tries, free.task) == (1, asked[1], 1, asked[2])
    assert made_of(99)[0].tries == making.TRIES == len(calls)
    plan = Plan(guided_below=0)
    assert [one.tries for one in made_of(99)] == [1, 1, 1]
