"""The denoiser: equivariance, what is given stays, chains do not see each other, gradients, and what it learns from."""

from __future__ import annotations

import pytest
import torch

from examples.backbones import learning, saved
from examples.backbones.geometry import Frames, frames_of
from examples.backbones.network import OPEN, Estimate
from examples.backbones.process import KNOWN
from examples.backbones.rotations import random_rotations
from tests.backbones.models import small_network, some_chains

Batch = dict[str, torch.Tensor]


def batch(level: float = 2.0, motif: slice | None = slice(4, 9)) -> Batch:
    """Two chains, of one of which a motif is given and whose structure is."""
    samples = []
    for place, chain in enumerate(some_chains(2, 20)):
        (item,) = learning.items_of([chain], 20)
        known = torch.zeros(20, dtype=torch.bool)
        structure = torch.full((20,), OPEN)
        if place == 1 and motif is not None:
            known[motif], structure = True, item.structure
        ends = torch.stack((torch.arange(20), torch.arange(20).flip(0)), -1)
        generator = torch.Generator().manual_seed(place)
        samples.append(learning.noised(item.coords, level, known, structure, ends, generator))
    return learning.collate(samples)


def distances(points: torch.Tensor) -> list[float]:
    """Of all pairs."""
    return torch.pdist(points.double()).tolist()


def estimate(network: torch.nn.Module, one: Batch, again: bool = False) -> Estimate:
    residues = learning.Residues(one["batch"], one["known"], one["structure"], one["ends"])
    noisy = Frames(one["noisy_rotation"], one["noisy_origin"])
    before = network(noisy, one["sigma"], residues, None, [1, 2]).frames if again else None
    return network(noisy, one["sigma"], residues, before, [1, 2])


@pytest.mark.parametrize("again", [False, True])
@torch.no_grad()
def test_turning_the_noise_turns_the_estimate(again: bool) -> None:
    network, one = small_network().double(), batch()
    one = {name: value.double() if value.is_floating_point() else value for name, value in one.items()}
    turn, shift = random_rotations(1, torch.Generator().manual_seed(0))[0].double(), torch.tensor([5.0, -3.0, 2.0])
    turn = torch.linalg.qr(turn).Q * torch.linalg.det(torch.linalg.qr(turn).Q)
    moved = one | {
        "noisy_rotation": turn @ one["noisy_rotation"],
        "noisy_origin": one["noisy_origin"] @ turn.T + shift.double(),
    }
    found, other = estimate(network, one, again).frames, estimate(network, moved, again).frames
    torch.testing.assert_close(other.origin, found.origin @ turn.T + shift.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(other.rotation, turn @ found.rotation, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_mirror_image_is_another_chain() -> None:
    """Left-handed helices must not look like right-handed ones."""
    network, one = small_network(), batch(motif=None)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    # Of a mirrored residue the third axis is the other way round.
    mirrored = one | {
        "noisy_rotation": mirror @ one["noisy_rotation"] @ mirror,
        "noisy_origin": one["noisy_origin"] @ mirror,
    }
    found, other = estimate(network, one).frames, estimate(network, mirrored).frames
    assert (other.origin @ mirror - found.origin).abs().max() > 0.05


@torch.no_grad()
def test_what_is_given_stays() -> None:
    one = batch()
    found = estimate(small_network(), one).frames
    known = one["known"]
    assert known.sum() == 5
    assert torch.equal(found.origin[known], one["noisy_origin"][known])
    assert torch.equal(found.rotation[known], one["noisy_rotation"][known])
    assert (found.origin[~known] != one["noisy_origin"][~known]).all()
    assert (one["sigma"][known] == KNOWN).all()
    assert torch.equal(one["noisy_origin"][known], one["origin"][known])


@torch.no_grad()
def test_chains_do_not_see_each_other() -> None:
    network, one = small_network(), batch()
    first = {name: value[:20] for name, value in one.items()}
    residues = learning.Residues(first["batch"], first["known"], first["structure"], first["ends"])
    alone = network(Frames(first["noisy_rotation"], first["noisy_origin"]), first["sigma"], residues, None, [1])
    both = estimate(network, one)
    torch.testing.assert_close(both.frames.origin[:20], alone.frames.origin, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.scale[:20], alone.scale)


@torch.no_grad()
@pytest.mark.parametrize("field", ["structure", "ends", "known", "sigma"])
def test_everything_that_is_known_has_a_say(field: str) -> None:
    network, one = small_network(), batch(motif=None)
    other = {
        "structure": torch.zeros(40, dtype=torch.long),
        "ends": one["ends"] + 3,
        "known": torch.arange(40) % 20 == 3,
        "sigma": one["sigma"] * 1.5,
    }[field]
    changed = estimate(network, one | {field: other}).frames.origin
    assert (changed - estimate(network, one).frames.origin).norm(dim=-1).max() > 1e-3


def test_all_weights_learn() -> None:
    network = small_network().train()
    errors = learning.errors_of(network, batch(), again=True)
    errors.total.mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@torch.no_grad()
def test_no_error_where_the_estimate_is_right() -> None:
    one = batch()

    class Knowing(torch.nn.Module):
        def forward(self, noisy: Frames, sigma: torch.Tensor, *others: object) -> Estimate:
            return Estimate(Frames(one["rotation"], one["origin"]), torch.ones_like(sigma))

    errors = learning.errors_of(Knowing(), one, again=False)
    for found in errors:
        torch.testing.assert_close(found, torch.zeros(2), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("level", [0.3, 3.0, 30.0])
def test_errors_are_one_where_nothing_is_known(level: float) -> None:
    """The mean of the Gaussian chain, and the noised rotation, have errors of one; of many draws, about."""

    class Chain(torch.nn.Module):
        def forward(self, noisy: Frames, sigma: torch.Tensor, *others: object) -> Estimate:
            parts = [prior(x, s) for x, s in zip(noisy.origin.split(20), sigma.split(20), strict=True)]
            mean, error = torch.cat([x.mean for x in parts]), torch.cat([x.error for x in parts])
            return Estimate(Frames(noisy.rotation, mean), error)

    prior = small_network().prior
    prior.fit(learning.mean_squares(some_chains(30, 20)))  # of pieces, so as wide as these
    model, found = Chain(), []
    for seed in range(20):
        chain = some_chains(seed + 1, 20)[-1]
        (item,) = learning.items_of([chain], 20)
        samples = [learning.draw_whole(item, torch.Generator().manual_seed(seed + k), level) for k in (0, 100)]
        errors = learning.errors_of(model, learning.collate(samples), again=False)
        found.append(torch.stack((errors.position, errors.rotation)).mean(1))
    position, rotation = torch.stack(found).mean(0)
    # The Gaussian chain does not know that the noise leaves the middle where it was: at 30 Å that is most of its error.
    assert 0.25 < float(position) < 2
    assert float(rotation) == pytest.approx(1, abs=0.15)


def test_crops_are_what_they_say() -> None:
    chain = some_chains(1, 40)[0]
    (item,) = learning.items_of([chain], 60)
    generator = torch.Generator().manual_seed(0)
    drawn = [learning.draw_crop(item, generator, 30, learning.Shares(0.5, 0.5)) for _ in range(60)]
    lengths = [len(sample["sigma"]) for sample in drawn]
    assert min(lengths) >= 15
    assert max(lengths) == 30
    given = torch.tensor([bool(sample["known"].any()) for sample in drawn])
    assert 0.3 < given.float().mean() < 0.7
    for sample in drawn:
        first, last = int(sample["ends"][0, 0]), int(sample["ends"][-1, 1])
        assert first + last + len(sample["sigma"]) == 40
        whole = frames_of(chain.coords[first : 40 - last])
        assert distances(sample["origin"]) == pytest.approx(distances(whole.origin), abs=1e-3)
        assert set(sample["structure"].tolist()) <= {0, 1, 2} or (sample["structure"] == OPEN).all()
        assert not sample["known"].all()


def test_a_file_gives_the_same_network(tmp_path) -> None:
    network = small_network(3)
    network.prior.fit(learning.mean_squares(some_chains(3, 30)))
    saved.save(network, tmp_path / "model.pt")
    again = saved.load(tmp_path)
    one = batch()
    with torch.no_grad():
        assert torch.equal(estimate(again, one).frames.origin, estimate(network, one).frames.origin)
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(saved.CheckpointError, match="not a generator of backbones"):
        saved.load(tmp_path / "other.pt")
