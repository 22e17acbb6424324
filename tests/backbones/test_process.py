"""The Gaussian chain, the noise, and the way back."""

from __future__ import annotations

import math

import pytest
import torch

from examples.backbones import learning
from examples.backbones.chains import load_chains
from examples.backbones.geometry import Frames, frames_of
from examples.backbones.process import ChainPrior, add_noise, angle_of, mean_of, step_back
from examples.backbones.rotations import exponential, random_rotations
from tests.backbones.models import some_chains


def fitted() -> ChainPrior:
    prior = ChainPrior()
    prior.fit(learning.mean_squares(load_chains().train))
    return prior


def test_the_gaussian_chain_is_as_wide_as_natural_ones() -> None:
    natural = learning.mean_squares(load_chains().train)
    prior = fitted()
    covariance = prior.covariance(100)
    for apart in (1, 2, 4, 8, 16, 32):
        expected = 6 * (covariance[0, 0] - covariance[0, apart])
        assert float(expected) == pytest.approx(float(natural[apart - 1]), rel=0.3)


def test_its_estimate_is_the_mean_of_the_posterior() -> None:
    """Against draws: of chains and noise from the model itself, the errors have the stated size and no correlation."""
    prior, generator = fitted(), torch.Generator().manual_seed(0)
    size, draws = 12, 4000
    sigma = torch.linspace(0.5, 6, size)
    root = torch.linalg.cholesky(prior.covariance(size) + 1e-9 * torch.eye(size, dtype=torch.float64))
    clean = torch.einsum("ij,jdk->dik", root, torch.randn(size, draws, 1, generator=generator, dtype=torch.float64))
    noisy = clean + sigma[:, None] * torch.randn(draws, size, 1, generator=generator, dtype=torch.float64)
    # A chain (size, 3) is three coordinates: as many draws at once.
    # Where the chain is as a whole it cannot know; where it is beside what it says, it can.
    errors = torch.cat([(prior(x, sigma).mean - c).T for x, c in zip(_threes(noisy), _threes(clean), strict=True)])
    scale = prior(noisy[0].expand(size, 3).float(), sigma).error.double()
    torch.testing.assert_close(errors.std(0), scale, atol=0, rtol=0.06)


def _threes(values: torch.Tensor) -> list[torch.Tensor]:
    return list(values[:999, :, 0].unflatten(0, (-1, 3)).mT)


def test_what_is_known_holds_its_neighbours() -> None:
    prior = fitted()
    clean = frames_of(some_chains(1, 24)[0].coords).origin
    sigma = torch.full((24,), 20.0)
    sigma[10:14] = 0.01
    found = prior(clean + sigma[:, None] * torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), sigma)
    torch.testing.assert_close(found.mean[10:14], clean[10:14], atol=0.05, rtol=0)
    assert found.error[10] < 0.011
    assert found.error[9] < found.error[5] < found.error[0]


def test_the_estimate_moves_with_the_chain() -> None:
    prior, generator = fitted(), torch.Generator().manual_seed(0)
    noisy, sigma = torch.randn(10, 3, generator=generator) * 5, torch.full((10,), 3.0)
    turn, shift = random_rotations(1, generator)[0], torch.tensor([3.0, -2.0, 7.0])
    moved = prior(noisy @ turn.T + shift, sigma).mean
    torch.testing.assert_close(moved, prior(noisy, sigma).mean @ turn.T + shift, atol=1e-4, rtol=0)


def test_noise_keeps_the_middle_of_free_chains() -> None:
    frames = [frames_of(chain.coords) for chain in some_chains(2, 15)]
    joined = Frames(torch.cat([f.rotation for f in frames]), torch.cat([f.origin for f in frames]))
    batch = torch.arange(2).repeat_interleave(15)
    noisy = add_noise(joined, torch.full((30,), 4.0), batch, torch.tensor([True, False]))
    moved = (mean_of(noisy.origin, batch) - mean_of(joined.origin, batch)).norm(dim=-1)
    assert moved[0] < 1e-4 < moved[1]
    torch.testing.assert_close(noisy.rotation.mT @ noisy.rotation, torch.eye(3).expand(30, 3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("sigma", "lower"), [(1.0, 0.8), (4.0, 1.0), (0.5, 0.1)])
def test_a_step_back_from_the_truth_leaves_the_lower_noise(sigma: float, lower: float) -> None:
    """If the estimate is right, what is left has the standard deviation of the lower level, positions and rotations."""
    generator, count = torch.Generator().manual_seed(0), 6000
    clean = Frames(random_rotations(count, generator), torch.zeros(count, 3))
    free = torch.zeros(count, dtype=torch.bool)
    noisy = add_noise(clean, torch.full((count,), sigma), torch.arange(count), free, generator)
    back = step_back(noisy, clean, sigma, lower, 1.0, generator)
    assert float(back.origin.std()) == pytest.approx(lower, rel=0.03)
    left = (clean.rotation.mT @ back.rotation).mean(0).diagonal().mean()
    # Along the geodesic is exact for small angles only.
    assert float(left) == pytest.approx(math.exp(-(float(angle_of(torch.tensor(lower))) ** 2)), abs=0.06)


def test_without_heat_a_step_goes_straight() -> None:
    clean = Frames(torch.eye(3)[None], torch.zeros(1, 3))
    noisy = Frames(exponential(torch.tensor([[0.4, 0.0, 0.0]])), torch.tensor([[2.0, 0.0, 0.0]]))
    back = step_back(noisy, clean, 1.0, 0.5, 0.0)
    torch.testing.assert_close(back.origin, torch.tensor([[0.5, 0.0, 0.0]]))
    torch.testing.assert_close(back.rotation, exponential(torch.tensor([[0.1, 0.0, 0.0]])))
