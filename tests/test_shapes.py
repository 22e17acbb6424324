"""Annotations are checked where that is asked for, and not where a test is marked."""

import jaxtyping
import pytest
import torch

from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.norm import Norm
from tests.shapes import CHECK_SHAPES

pytestmark = pytest.mark.skipif(not CHECK_SHAPES, reason="CHECK_SHAPES=1 is not set")
WRONG = torch.zeros(3, 4, 5, dtype=torch.long)


def test_a_wrong_shape_is_found():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"Norm\.forward"):
        Norm(Fiber((5,)))(WRONG)


@pytest.mark.unchecked
def test_unless_marked():
    with pytest.raises(RuntimeError):
        Norm(Fiber((5,)))(WRONG)
