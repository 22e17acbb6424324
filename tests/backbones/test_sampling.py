"""Sampling: seeds, batches, motifs, variations; and guidance."""

from __future__ import annotations

import pytest
import torch

from examples.backbones.chains import load_chains
from examples.backbones.geometry import Frames, atoms_of, frames_of
from examples.backbones.guidance import NEAREST_ATOMS, NEAREST_CA, relax
from examples.backbones.measures import local
from examples.backbones.measures.compare import rmsd
from examples.backbones.network import Residues
from examples.backbones.process import HIGHEST
from examples.backbones.rotations import exponential, random_rotations
from examples.backbones.sampling import Plan, Task, sample, trajectory
from tests.backbones.models import small_network, some_chains

PLAN = Plan(steps=6, rounds=2)


def free(count: int) -> Residues:
    return Residues(
        torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.bool), torch.zeros(0), torch.zeros(0)
    )


def test_a_seed_makes_the_same_backbone() -> None:
    network = small_network()
    one, again, other = (sample(network, [Task(14, seed)], PLAN)[0] for seed in (5, 5, 6))
    assert torch.equal(one.origin, again.origin)
    assert not torch.equal(one.origin, other.origin)


def test_together_they_are_what_they_are_alone() -> None:
    network = small_network()
    tasks = [Task(14, 1), Task(20, 2), Task(9, 3)]
    together = sample(network, tasks, PLAN)
    for task, found in zip(tasks, together, strict=True):
        alone = sample(network, [task], PLAN)[0]
        torch.testing.assert_close(found.origin, alone.origin, atol=2e-2, rtol=0)
        torch.testing.assert_close(found.rotation, alone.rotation, atol=2e-2, rtol=0)


def test_what_is_given_is_in_the_backbone() -> None:
    given = frames_of(some_chains(1, 20)[0].coords)
    known = torch.zeros(20, dtype=torch.bool)
    known[6:13] = True
    found = sample(small_network(), [Task(20, 0, known=known, frames=given)], PLAN)[0]
    apart = torch.cdist(given.origin[known], given.origin[known])
    torch.testing.assert_close(torch.cdist(found.origin[known], found.origin[known]), apart, atol=1e-3, rtol=0)


def test_variations_are_nearer_with_less_noise() -> None:
    coords = some_chains(1, 24)[0].coords
    given = frames_of(coords)
    off = []
    for start in (0.2, 8.0):
        found = sample(small_network(), [Task(24, 0, frames=given, start=start)], Plan(steps=6, guided_below=0))[0]
        off.append(rmsd(atoms_of(found), atoms_of(given)))
    assert off[0] < 1.5 < off[1]


def test_the_way_ends_with_the_sample() -> None:
    network = small_network()
    way = list(trajectory(network, [Task(12, 0)], PLAN))
    assert len(way) == PLAN.steps == len(PLAN.levels(HIGHEST))
    assert torch.equal(way[-1][0].origin, sample(network, [Task(12, 0)], PLAN)[0].origin)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"length": 1, "seed": 0}, "length"),
        ({"length": 9, "seed": 0, "known": torch.ones(9, dtype=torch.bool)}, "frames is missing"),
        ({"length": 9, "seed": 0, "start": 1.0}, "frames is missing"),
        ({"length": 9, "seed": 0, "structure": torch.zeros(8)}, r"structure must have the shape \(9,\)"),
        ({"length": 9, "seed": 0, "start": 0.01, "frames": Frames(torch.eye(3), torch.zeros(3))}, "start"),
    ],
)
def test_wrong_tasks(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Task(**arguments)


def test_tasks_of_a_call_start_alike() -> None:
    frames = frames_of(some_chains(1, 9)[0].coords)
    with pytest.raises(ValueError, match="same noise"):
        sample(small_network(), [Task(9, 0), Task(9, 1, frames=frames, start=1.0)], PLAN)
    with pytest.raises(ValueError, match="at least one"):
        sample(small_network(), [], PLAN)


# ---- guidance


def shaken(size: float) -> Frames:
    """A natural chain whose residues were moved and turned."""
    frames = frames_of(load_chains().train[0].coords[:40])
    generator = torch.Generator().manual_seed(0)
    shift, turn = size * torch.randn(2, 40, 3, generator=generator)
    return Frames(frames.rotation @ exponential(turn), frames.origin + shift)


def test_relaxing_closes_the_bonds() -> None:
    before = shaken(0.15)
    after = relax(before, free(40), closed=True, rounds=100)
    for frames, good in ((before, False), (after, True)):
        coords = atoms_of(frames)
        assert (local.bond_deviation(coords, local.JUNCTION_BONDS) < 0.02) is good
        assert (local.angle_deviation(coords, local.JUNCTION_ANGLES) < 2) is good
    assert rmsd(atoms_of(after), atoms_of(before)) < 0.8


def test_relaxing_parts_what_clashes() -> None:
    coords = load_chains().train[0].coords
    first, second = frames_of(coords[:20]), frames_of(coords[20:40])
    onto = second.origin - second.origin[8] + first.origin[8] + 0.4
    frames = Frames(torch.cat((first.rotation, second.rotation)), torch.cat((first.origin, onto)))
    assert local.ca_clashes(atoms_of(frames)) > 0
    assert local.ca_clashes(atoms_of(relax(frames, free(40), closed=False, rounds=60))) == 0


def test_what_is_parted_no_longer_counts_as_a_clash() -> None:
    """Where guidance stops at the limit itself, what it parts lies on either side of it."""
    for one, of_one in zip(local.ELEMENTS, NEAREST_ATOMS, strict=True):
        for other, nearest in zip(local.ELEMENTS, of_one, strict=True):
            assert nearest >= local.ATOM_CLASH["".join(sorted(one + other))] + 0.099
    assert NEAREST_CA >= local.CA_CLASH + 0.099


def test_relaxing_leaves_what_is_given() -> None:
    before, residues = shaken(0.2), free(40)
    residues.known[10:15] = True
    after = relax(before, residues, closed=True, rounds=5)
    torch.testing.assert_close(after.origin[10:15], before.origin[10:15])
    assert (after.origin[~residues.known] != before.origin[~residues.known]).any(-1).all()


def test_relaxing_turns_with_the_chain() -> None:
    before = shaken(0.15)
    turn = random_rotations(1, torch.Generator().manual_seed(3))[0]
    moved = Frames(turn @ before.rotation, before.origin @ turn.T)
    one, other = (relax(frames, free(40), closed=True, rounds=10).origin for frames in (before, moved))
    torch.testing.assert_close(other, one @ turn.T, atol=1e-3, rtol=0)


def test_a_natural_chain_stays_where_it_is() -> None:
    frames = frames_of(load_chains().train[0].coords[:40])
    assert rmsd(atoms_of(relax(frames, free(40), closed=True, rounds=30)), atoms_of(frames)) < 0.15
