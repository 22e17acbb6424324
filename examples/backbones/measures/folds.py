"""How alike folds are: TM-scores by TM-align (tmtools), of CA alone, without regard to sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def tm_score(coords: Tensor, other: Tensor) -> float:
    """TM of the best alignment of two backbones (residues, 4, 3), of the length of the first: 1 is the same fold.

    Above 0.5 folds are alike; by chance it is about 0.2 – 0.3.
    """
    from tmtools import tm_align

    points = [x[:, 1].double().cpu().numpy() for x in (coords, other)]
    return float(tm_align(*points, *("A" * len(x) for x in points)).tm_norm_chain1)


def nearest(coords: Tensor, references: Sequence[Tensor]) -> tuple[int, float]:
    """The reference of the highest TM of the length of `coords`, and that TM.

    Those of less than half the length are passed over: their TM cannot reach 0.5.
    """
    scores = [tm_score(coords, other) if 2 * len(other) >= len(coords) else 0.0 for other in references]
    best = int(np.argmax(scores))
    return best, scores[best]
