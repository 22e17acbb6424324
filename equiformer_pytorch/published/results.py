"""What becomes of the results of published models, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from equiformer_pytorch.base.potential import HEAVIEST


def detached(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same without gradients, in dicts within, too."""
    return {name: detached(x) if isinstance(x, dict) else x.detach() for name, x in outputs.items()}


def with_matrices(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stresses (…, 3, 3) instead of (…, 9)."""
    return {name: x.unflatten(-1, (3, 3)) if name in ("stress", "stresses") else x for name, x in outputs.items()}


def by_number(energies: Tensor | None) -> Float64[Tensor, " elements"]:
    """A table of energies by atomic number as that of all elements: zero where there is none."""
    found = torch.zeros(HEAVIEST + 1, dtype=torch.float64, device="cpu")
    if energies is not None:
        known = energies[: HEAVIEST + 1]
        found[: len(known)] = known.to(found)
    return found
