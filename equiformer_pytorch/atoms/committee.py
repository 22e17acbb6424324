"""Several potentials that were trained apart: the mean of what they give, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

STD = "_std"
"""What the name of a standard deviation over the members ends with."""


def mean_and_spread(of_members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of what all members give: the mean, and of several, under the name with `STD`, the standard deviation (n − 1)
    over them; float64."""
    common = set.intersection(*(set(out) for out in of_members))
    stacked = {name: torch.stack([out[name].double() for out in of_members]) for name in common}
    found = {name: x.mean(0) for name, x in stacked.items()}
    if len(of_members) > 1:
        found |= {name + STD: x.std(0) for name, x in stacked.items()}
    return found
