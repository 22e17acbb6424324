"""One small potential of each family, and structures for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiformer_pytorch.atoms import Potential
from equiformer_pytorch.published.scales import Scales
from tests import escn_md_cases, published_cases
from tests.atoms import potentials

KINDS = ("own", "v2", "v3", "gradient", "escn_md", "experts")
# Those whose forces and stress are derivatives of the energy.
CONSERVATIVE = ("own", "gradient", "escn_md", "experts")
# One layer of low degree has all that a program is made of; compiling takes as long as there are operations.
SMALL: dict[str, dict[str, Any]] = {
    "own": {"depth": 1, "num_degrees": 2, "dim": (4, 3)},
    "v2": {"num_layers": 1, "lmax_list": [1], "mmax_list": [1]},
    "v3": {"num_layers": 1},  # whose stress is of degree 2
    "gradient": {"num_layers": 1, "lmax": 1, "mmax": 1},
    "escn_md": {"num_layers": 1, "lmax": 1, "mmax": 1},
    "experts": {"num_layers": 1, "lmax": 1, "mmax": 1},
}


def build(kind: str, **options: Any) -> Potential:
    """In float64, alive in all parts, cutoff 3 Å."""
    if kind == "own":
        return potentials.potential(targets={"charges": potentials.Target(0)}, **options).eval()
    if kind in ("escn_md", "experts"):
        return escn_md_cases.build(kind, cutoff=potentials.CUTOFF, max_neighbors=200, **options)
    model = published_cases.build(kind, max_radius=potentials.CUTOFF, max_neighbors=200, **options)
    references = torch.linspace(-9, 9, 20, dtype=torch.float64)
    model.scales = Scales({"energy": (0.5, 2.0), "forces": (0.0, 2.0), "stress": (0.0, 2.0)}, references)
    return model


def structures() -> list[dict[str, Tensor]]:
    """Two crystals and a molecule in a box, of different sizes, all with cells."""
    box = 20 * torch.eye(3, dtype=torch.float64)[None]
    return [potentials.crystal(0), {**potentials.molecule(5), "cell": box}, potentials.crystal(1)]


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest deviation as a share of the largest entry."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-300))
