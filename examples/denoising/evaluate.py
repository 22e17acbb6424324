"""How much noise is left on chains that were not trained on, beside two baselines, and what the geometry looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.denoising.chain_map import ChainMap
from examples.denoising.data import ATOMS, Backbone, fixed_noise
from examples.denoising.model import variance_left

LINEAR_REACH = 3
LINEAR_CHAINS = 200  # are enough to fit a linear map's few weights
Predictor = Callable[[Backbone, Tensor], Tensor]
"""Of a backbone and its noised coordinates (points, 3): displacements (points, 3)."""

BONDS = ("N-CA", "CA-C", "C-N")
ANGLES = ("N-CA-C", "CA-C-N", "C-N-CA")


@dataclass(frozen=True)
class Score:
    """Over a set of chains: mean of the variance left (1: nothing done) and of the RMSD in Å."""

    variance_left: float
    rmsd: float


def predict_nothing(chain: Backbone, noised: Tensor) -> Tensor:
    """The baseline that leaves everything where it is."""
    return torch.zeros_like(noised)


class LinearPredictor:
    """Least squares from the chain neighbours, the best that a linear map that knows of the chain can do."""

    def __init__(self, chains: list[Backbone], noise: float) -> None:
        """Fits the weights on `chains` with their fixed noise."""
        self.map = ChainMap(LINEAR_REACH)
        self.map.fit(chains, noise)

    @torch.no_grad()
    def __call__(self, chain: Backbone, noised: Tensor) -> Tensor:
        return self.map(chain.tokens, noised, chain.positions, chain.mask)


class ModelPredictor:
    """A `BackboneDenoiser`, one chain at a time."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def __call__(self, chain: Backbone, noised: Tensor) -> Tensor:
        inputs = (chain.tokens, noised, chain.positions, chain.mask)
        return self.model(*(tensor[None].to(self.device) for tensor in inputs))[-1, 0].cpu()


def rmsd(coords: Tensor, reference: Tensor) -> float:
    """Root mean square distance of two (points, 3) after the best superposition (Kabsch 1976)."""
    a = (coords - coords.mean(0)).double()
    b = (reference - reference.mean(0)).double()
    u, _, vt = torch.linalg.svd(a.T @ b)
    u[:, -1] *= torch.det(u @ vt).sign()
    return float((a @ u @ vt - b).square().sum(-1).mean().sqrt())


def score(predictor: Predictor, chains: list[Backbone], noise: float) -> Score:
    """Mean over the chains, each with its fixed noise."""
    left, distances = [], []
    for chain in chains:
        drawn = fixed_noise(chain, noise)
        moved = predictor(chain, chain.coords + drawn)
        left.append(variance_left(moved[None], drawn[None], chain.mask[None]).item())
        distances.append(rmsd((chain.coords + drawn + moved)[chain.mask], chain.coords[chain.mask]))
    return Score(sum(left) / len(chains), sum(distances) / len(chains))


def geometry(chains: list[Backbone], coords: list[Tensor]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the bond lengths (Å) and angles (degrees) of chains with these coordinates."""
    values: dict[str, list[Tensor]] = {name: [] for name in (*BONDS, *ANGLES)}
    for chain, points in zip(chains, coords, strict=True):
        atom = chain.tokens % len(ATOMS)
        bonded = chain.mask[1:] & chain.mask[:-1] & (chain.positions.diff() == 1)
        bond = points[1:] - points[:-1]
        cosine = -torch.cosine_similarity(bond[1:], bond[:-1], dim=-1)
        angle = cosine.clamp(-1, 1).acos().rad2deg()
        for first, name in enumerate(BONDS):
            values[name].append(bond.norm(dim=-1)[bonded & (atom[:-1] == first)])
        for first, name in enumerate(ANGLES):
            values[name].append(angle[bonded[1:] & bonded[:-1] & (atom[:-2] == first)])
    joined = {name: torch.cat(parts) for name, parts in values.items()}
    return {name: (float(all_.mean()), float(all_.std())) for name, all_ in joined.items()}
