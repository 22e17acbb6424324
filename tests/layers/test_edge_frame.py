"""Distances and frames of edges."""

import pytest
import torch

from equiformer_pytorch.layers.edge_frame import EdgeFrame
from tests.models import grad_of


@pytest.mark.parametrize("degrees", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_dtypes_and_zero_edges(degrees, dtype):
    frame = EdgeFrame(degrees)
    vectors = torch.randn(6, 3, dtype=dtype)
    vectors[2] = 0
    vectors[4] = 1e-30 if dtype == torch.float32 else 1e-170
    distance, rotation = frame(vectors)
    assert distance.dtype == dtype
    torch.testing.assert_close(distance[[0, 1, 3, 5]], vectors[[0, 1, 3, 5]].norm(dim=-1))
    assert distance[[2, 4]].abs().max() == 0
    for block in rotation.blocks:
        assert block.dtype == dtype
        assert block.isfinite().all()
    invariants = torch.randn(6, degrees**2, 2, dtype=dtype)
    for m, part in enumerate(rotation.align(invariants, degrees, degrees - 1)):
        if m == 0:
            torch.testing.assert_close(part[[2, 4], 0, :2], invariants[[2, 4], 0])
            assert part[[2, 4], 0, 2:].abs().sum() == 0
        else:
            assert part[[2, 4]].abs().max() == 0


def test_gradients_at_zero_length_are_zero():
    vectors = torch.zeros(2, 3, dtype=torch.float64)
    vectors[1] = torch.tensor([0.0, -1.0, 0.0])
    vectors.requires_grad_()
    distance, rotation = EdgeFrame(3)(vectors)
    (distance.sum() + sum((b * torch.randn_like(b)).sum() for b in rotation.blocks)).backward()
    slope = grad_of(vectors)
    assert slope[0].abs().max() == 0
    assert slope[1].isfinite().all()
    assert slope[1].abs().max() > 0


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e12])
def test_directions_do_not_depend_on_the_length(scale):
    vectors = torch.randn(5, 3, dtype=torch.float64)
    one, two = (EdgeFrame(3)(v)[1] for v in (vectors, scale * vectors))
    for a, b in zip(one.blocks, two.blocks, strict=True):
        assert (a - b).abs().max() < 1e-13


def test_high_degrees_are_exact_in_float32_too():
    """D_l magnifies rounding by 2l: it is not to be seen."""
    vectors = torch.randn(500, 3)
    exact, single = EdgeFrame(11)(vectors.double())[1], EdgeFrame(11)(vectors)[1]
    for a, b in zip(exact.blocks, single.blocks, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 3e-6


def test_constants_move_but_are_not_cast():
    frame = EdgeFrame(3).half()
    assert {b.dtype for b in frame.buffers()} == {torch.float64}
    assert {b.device.type for b in EdgeFrame(3).to("meta").buffers()} == {"meta"}
    assert frame.state_dict() == {}
