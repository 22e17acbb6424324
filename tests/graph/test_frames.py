"""Frames of edges: rotations, onto y, exact and smooth at the poles; lengths; frames that are given."""

import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiformer_pytorch.graph.frames import EdgeFrames, check_frames
from equiformer_pytorch.ops.rotate import rotate_in, rotate_out
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.testing import assert_gradients
from tests import tolerances
from tests.models import total
from tests.oracle import matrices_of, order_major, random_rotation, wigner_d, wigner_of

Y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)


def near_poles(steps=(0.0, 1e-12, 1e-9, 1e-6, 1e-3)) -> Tensor:
    """Unit vectors at and around ±y, and on the border between the two charts."""
    rows = []
    for sign in (1.0, -1.0):
        for step in steps:
            for tilt in ((step, 0.0), (0.0, -step), (-step, step)):
                rows.append([tilt[0], sign, tilt[1]])
    for step in (0.0, 1e-9, -1e-9):
        rows += [[1.0, step, 0.0], [-1.0, step, 0.0], [0.0, step, 1.0], [0.6, step, -0.8]]
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def directions(count: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)


def frames_onto(vectors: Tensor, seed: int = 3) -> Tensor:
    """Rotations that carry the vectors to y, with random rolls."""
    g = torch.Generator().manual_seed(seed)
    y = torch.nn.functional.normalize(vectors.double(), dim=1)
    other = torch.randn(y.shape, generator=g, dtype=torch.float64)
    x = torch.nn.functional.normalize(torch.linalg.cross(y, other), dim=1)
    return torch.stack((x, y, torch.linalg.cross(x, y)), dim=1)


def matrices(vectors: Tensor, degree: int, frames: Tensor | None = None, **options: int) -> list[Tensor]:
    return matrices_of(EdgeFrames(degree, **options)(vectors, frames)[1])


@pytest.mark.parametrize("shared", [1, 4, 11])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rotation_onto_y_in_every_degree(degree, dtype, shared):
    r = torch.cat((directions(20), near_poles()))
    found = matrices(r.to(dtype), degree, shared=shared)
    assert len(found) == degree + 1
    assert (found[0] - 1).abs().max() < tolerances.ROTATION[dtype]
    if degree == 0:
        return
    tolerance = tolerances.ROTATION[dtype] * (degree + 1)
    vector = found[1].double()
    assert ((vector @ r[:, :, None]).squeeze(-1) - Y).abs().max() < tolerance
    assert (torch.linalg.det(vector) - 1).abs().max() < tolerance
    probe = directions(7)
    constants = recurrence_constants(degree)
    turned, before = (spherical_harmonics(p, constants) for p in (probe @ vector.mT, probe))
    for d, matrix in enumerate(found):
        assert matrix.dtype == dtype
        matrix = matrix.double()
        assert (matrix @ matrix.mT - torch.eye(2 * d + 1, dtype=torch.float64)).abs().max() < tolerance
        columns = slice(d * d, (d + 1) ** 2)
        difference = turned[:, :, columns] - before[:, columns] @ matrix.mT
        assert difference.abs().max() / (2 * d + 1) ** 0.5 < 4 * tolerance


@pytest.mark.parametrize("shared", [1, 4, 11])
def test_e3nn_agrees(shared):
    _, vector, *higher = matrices(directions(20), 10, shared=shared)
    angles = o3.matrix_to_angles(vector)
    for d, matrix in enumerate(higher, start=2):
        assert (matrix - wigner_d(d, *angles)).abs().max() < 1e-9


@pytest.mark.parametrize("shared", [1, 2, 4, 7])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("max_order", [0, 1, 2, 6])
def test_into_the_frame_and_out_also_of_fewer_degrees_and_orders(degrees, max_order, shared):
    """Features of fewer degrees than the rotation holds; orders that are left out count as zero."""
    max_order = min(max_order, degrees - 1)
    r = directions(6)
    rotation, exact = EdgeFrames(6, shared=shared)(r)[1], matrices(r, 6)
    x = torch.randn(6, degrees**2, 3, dtype=torch.float64)
    aligned = rotate_in(x, rotation, max_order)
    rows = order_major(degrees - 1, max_order)
    assert aligned.shape == (6, len(rows), 3)
    expected = []
    for d in range(degrees):
        turned = exact[d] @ x[:, d * d : (d + 1) ** 2]
        for m in range(-d, d + 1):
            if abs(m) <= max_order:
                got = aligned[:, rows.index((d, m))]
                torch.testing.assert_close(got, turned[:, d + m], rtol=0, atol=1e-12)
            else:
                turned[:, d + m] = 0
        expected.append(exact[d].mT @ turned)
    restored = rotate_out(aligned, rotation, degrees, max_order)
    torch.testing.assert_close(restored, torch.cat(expected, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shared", [1, 4, 7])
@pytest.mark.parametrize("max_order", [0, 1, 2, 4])
def test_orders_that_are_left_out_are_rows_that_are_left_out(max_order, shared):
    """A module for few orders has the first rows of one for all, also with frames that are given."""
    r = directions(5)
    for frames in (None, frames_onto(r)):
        every, few = (EdgeFrames(6, m, shared=shared)(r, frames)[1] for m in (None, max_order))
        assert few.max_order == max_order
        for block, part, (low, high) in zip(every.blocks, few.blocks, few.spans, strict=True):
            wanted = [row for row in order_major(high - 1, max_order) if row[0] >= low]
            assert part.shape[1] == len(wanted)
            torch.testing.assert_close(part, block[:, : len(wanted)], rtol=0, atol=1e-13)


@pytest.mark.parametrize("degrees", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_dtypes_and_zero_edges(degrees, dtype):
    frame = EdgeFrames(degrees - 1)
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
    features = torch.randn(6, degrees**2, 2, dtype=dtype)
    aligned = rotate_in(features, rotation, degrees - 1)
    torch.testing.assert_close(aligned[[2, 4], 0], features[[2, 4], 0])
    assert aligned[[2, 4], 1:].abs().sum() == 0
    assert degrees == 1 or aligned[0, 1:].abs().max() > 0.1


def test_undirected_edges_pass_only_invariants():
    vectors = torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 0.0]], dtype=torch.float64)
    for frames in (None, frames_onto(vectors[[0, 0]])):
        for d, matrix in enumerate(matrices(vectors, 5, frames)):
            assert matrix[0].abs().max() > 0.1
            assert matrix[1].abs().max() == (1 if d == 0 else 0)


def test_gradients_at_zero_length_are_zero():
    vectors = torch.zeros(2, 3, dtype=torch.float64)
    vectors[1] = torch.tensor([0.0, -1.0, 0.0])
    vectors.requires_grad_()
    distance, rotation = EdgeFrames(2)(vectors)
    (distance.sum() + sum((b * torch.randn_like(b)).sum() for b in rotation.blocks)).backward()
    assert vectors.grad[0].abs().max() == 0
    assert vectors.grad[1].isfinite().all()
    assert vectors.grad[1].abs().max() > 0


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e12])
def test_directions_do_not_depend_on_the_length(scale):
    vectors = torch.randn(5, 3, dtype=torch.float64)
    one, two = (EdgeFrames(2)(v)[1] for v in (vectors, scale * vectors))
    for a, b in zip(one.blocks, two.blocks, strict=True):
        assert (a - b).abs().max() < 1e-13


@pytest.mark.parametrize("given", [False, True])
def test_high_degrees_are_exact_in_float32_too(given):
    """D_l magnifies rounding by 2l: it is not to be seen, since directions are worked on in float64."""
    vectors = torch.randn(500, 3)
    frames = frames_onto(vectors) if given else None
    exact = EdgeFrames(10)(vectors.double(), frames)[1]
    distance, single = EdgeFrames(10)(vectors, frames)
    assert distance.dtype == torch.float32
    for a, b in zip(exact.blocks, single.blocks, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 1e-7


def test_constants_move_but_are_not_cast():
    frame = EdgeFrames(2).half()
    assert {b.dtype for b in frame.buffers() if b.is_floating_point()} == {torch.float64}
    assert {b.device.type for b in EdgeFrames(2).to("meta").buffers()} == {"meta"}
    assert frame.state_dict() == {}
    wanted = EdgeFrames(5)(directions(4))[1]
    for got, block in zip(EdgeFrames(5).float().double()(directions(4) * 0 + 1)[1].blocks, wanted.blocks, strict=True):
        assert got.dtype == block.dtype == torch.float64
    back = EdgeFrames(5).to("meta").to_empty(device="cpu")
    vectors = directions(4)
    for got, block in zip(back(vectors)[1].blocks, EdgeFrames(5)(vectors)[1].blocks, strict=True):
        assert torch.equal(got, block)


def test_no_edges():
    for frames in (None, torch.zeros(0, 3, 3, dtype=torch.float64)):
        vectors = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
        distance, rotation = EdgeFrames(5)(vectors, frames)
        assert distance.shape == (0,)
        assert [tuple(block.shape) for block in rotation.blocks] == [(0, 16, 16), (0, 9, 9), (0, 11, 11)]
        (total(block.sum() for block in rotation.blocks) + distance.sum()).backward()
        assert vectors.grad.shape == (0, 3)


@settings(max_examples=6)
@given(sign=st.sampled_from([1.0, -1.0]), exponent=st.floats(-9, -3), azimuth=st.floats(0, 6.28))
def test_two_orders_of_gradients_close_to_the_poles(sign, exponent, azimuth):
    tilt = 10**exponent
    angle = torch.tensor(azimuth, dtype=torch.float64)
    r = torch.stack((tilt * angle.cos(), torch.tensor(sign, dtype=torch.float64), tilt * angle.sin()))[None]
    frames = EdgeFrames(2)

    def function(r):
        return torch.cat([block.flatten() for block in frames(r)[1].blocks])

    assert_gradients(function, {"r": r})


def test_two_orders_of_gradients_of_lengths_and_all_blocks():
    frames = EdgeFrames(5, 3, shared=2)

    def function(r):
        distance, rotation = frames(r)
        return distance, *rotation.blocks

    assert_gradients(function, {"r": torch.randn(3, 3, dtype=torch.float64)}, fast=True)


def test_gradients_are_bounded_everywhere():
    r = near_poles().requires_grad_()
    for matrix in matrices(r, 3):
        (gradient,) = torch.autograd.grad((matrix * torch.randn_like(matrix)).sum(), r, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100


# Frames that are given


@pytest.mark.parametrize("shared", [1, 4, 11])
@pytest.mark.parametrize("degree", [1, 3, 6, 10])
def test_given_frames_are_met_to_rounding(degree, shared):
    r = torch.cat((3 * directions(20), 0.1 * near_poles()))
    frames = frames_onto(r)
    found = matrices(r, degree, frames, shared=shared)
    torch.testing.assert_close(found[1], frames, rtol=0, atol=1e-13)
    for d, (matrix, wanted) in enumerate(zip(found, wigner_of(frames, degree), strict=True)):
        # Angles of e3nn are good to about the root of the precision at its poles.
        assert (matrix[:20] - wanted[:20]).abs().max() < 1e-9, d
        assert (matrix @ matrix.mT - torch.eye(2 * d + 1, dtype=torch.float64)).abs().max() < 1e-11


def test_a_constant_frame_rolls_with_the_half_turn():
    """Its value, and the derivative of the half-turn at constant roll γ: D = D_y(γ) D(half-turn)."""
    r = directions(4).requires_grad_()
    frames = frames_onto(r.detach())
    module = EdgeFrames(3)
    got = matrices_of(module(r, frames)[1])
    half_turns = matrices_of(module(r)[1])
    for matrix, plain, rolled in zip(got, half_turns, wigner_of(frames, 3), strict=True):
        roll = (rolled @ plain.mT).detach()
        probe = torch.randn_like(matrix)
        (gradient,) = torch.autograd.grad((probe * matrix).sum(), r, retain_graph=True)
        (wanted,) = torch.autograd.grad((probe * (roll @ plain)).sum(), r, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-9)


def test_a_frame_with_gradients_keeps_them():
    """D(R) for rotations R that hang on a parameter: derivatives along it are those of finite differences."""
    r = directions(3)
    frames = frames_onto(r)
    module = EdgeFrames(3)

    def function(turn: Tensor) -> Tensor:
        skew = torch.zeros(3, 3, dtype=torch.float64)
        skew = skew + torch.stack(
            [
                torch.stack([0 * turn[0], -turn[2], turn[1]]),
                torch.stack([turn[2], 0 * turn[0], -turn[0]]),
                torch.stack([-turn[1], turn[0], 0 * turn[0]]),
            ]
        )
        turned = frames @ torch.linalg.matrix_exp(skew)
        # The edges do not turn along, so that all there is comes from the frames.
        return torch.cat([block.flatten() for block in module(r, turned)[1].blocks])

    turn = torch.zeros(3, dtype=torch.float64)
    assert_gradients(function, {"turn": turn}, second=False)
    jacobian = torch.autograd.functional.jacobian(function, turn)
    assert jacobian.abs().max() > 0.1


def test_rotations_of_other_vectors_than_the_distances():
    """With `turned` cut out of the graph, rotations carry no gradients and distances do."""
    r = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    for degree in (2, 6):
        distance, rotation = EdgeFrames(degree)(r, turned=r.detach())
        assert distance.requires_grad
        assert not any(block.requires_grad for block in rotation.blocks)
        for block, wanted in zip(rotation.blocks, EdgeFrames(degree)(r)[1].blocks, strict=True):
            assert torch.equal(block, wanted)


def test_check_frames():
    r = 2 * directions(5)
    frames = frames_onto(r)
    check_frames(frames, r)
    check_frames(frames.float(), r.float())
    mirrored = frames.clone()
    mirrored[3, 0] *= -1
    stretched = frames.clone()
    stretched[3, 2] *= 1.1
    elsewhere = frames.clone()
    elsewhere[3] = random_rotation(0)
    for wrong in (mirrored, stretched, elsewhere):
        with pytest.raises(ValueError, match=r"edge_frames must be rotations.* edge 3 does not"):
            check_frames(wrong, r)


# What a rotation can be cut to


@pytest.mark.parametrize("shared", [1, 3, 6])
def test_restricted_blocks(shared):
    """Rows of higher degrees and orders are gone, and columns of higher degrees."""
    rotation = EdgeFrames(5, shared=shared)(directions(3))[1]
    for degrees in range(1, 7):
        for max_order in range(degrees):
            blocks = rotation.restricted(degrees, max_order)
            spans = [(low, min(high, degrees)) for low, high in rotation.spans if low < degrees]
            assert len(blocks) == len(spans)
            for block, whole, (low, high), (_, end) in zip(
                blocks, rotation.blocks, spans, rotation.spans, strict=False
            ):
                held = [row for row in order_major(end - 1, 5) if row[0] >= low]
                kept = [row for row in order_major(high - 1, max_order) if row[0] >= low]
                assert torch.equal(block, whole[:, [held.index(row) for row in kept], : high**2 - low**2])


def test_rows_below_are_named_for_each_number_of_degrees_inside_the_first_block():
    rotation = EdgeFrames(5, 2, shared=4)(directions(2))[1]
    assert set(rotation.rows_below) == {1, 2, 3}
    held = order_major(3, 2)
    for degrees, rows in rotation.rows_below.items():
        assert [held[row] for row in rows.tolist()] == order_major(degrees - 1, 2)


def test_with_blocks():
    rotation = EdgeFrames(5)(directions(3))[1]
    single = rotation.with_blocks(block.float() for block in rotation.blocks)
    assert [block.dtype for block in single.blocks] == [torch.float32] * 3
    assert (single.spans, single.max_order, single.rows_below) == (
        rotation.spans,
        rotation.max_order,
        rotation.rows_below,
    )
