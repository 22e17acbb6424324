"""The rotation that aligns an edge with y: a rotation, onto y, exact and smooth at the poles."""

import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from equiformer_pytorch.so3.edge_rotation import EdgeRotation, rotation_constants
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.testing import assert_gradients
from tests import tolerances
from tests.oracle import wigner_d


def near_poles(steps=(0.0, 1e-12, 1e-9, 1e-6, 1e-3)) -> torch.Tensor:
    """Unit vectors at and around ±y, and on the border between the two charts."""
    rows = []
    for sign in (1.0, -1.0):
        for step in steps:
            for tilt in ((step, 0.0), (0.0, -step), (-step, step)):
                rows.append([tilt[0], sign, tilt[1]])
    for step in (0.0, 1e-9, -1e-9):
        rows += [[1.0, step, 0.0], [-1.0, step, 0.0], [0.0, step, 1.0], [0.6, step, -0.8]]
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def directions(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)


def rotation_of(r: torch.Tensor, degree: int, directed: torch.Tensor | None = None) -> EdgeRotation:
    recurrence, constants = rotation_constants(degree + 1)
    constants = [(c.to(r.dtype), s.to(r.dtype)) for c, s in constants]
    directed = torch.ones(len(r), dtype=r.dtype) if directed is None else directed
    return EdgeRotation.from_directions(r, directed, recurrence.to(r.dtype), constants)


def matrices(r: torch.Tensor, degree: int, directed: torch.Tensor | None = None) -> list[torch.Tensor]:
    """D_0 … D_degree, from what :meth:`EdgeRotation.align` does to the unit vectors."""
    size = (degree + 1) ** 2
    identity = torch.eye(size, dtype=r.dtype).expand(len(r), size, size)
    rows = {}
    for m, part in enumerate(rotation_of(r, degree, directed).align(identity, degree + 1, degree)):
        part = part.unflatten(-1, (degree + 1 - m, size))
        for side, sign in enumerate((-1, 1) if m else (1,)):
            for d in range(m, degree + 1):
                rows[d * d + d + sign * m] = part[:, side, d - m]
    whole = torch.stack([rows[i] for i in range(size)], dim=1)
    for d in range(degree + 1):
        outside = whole[:, d * d : (d + 1) ** 2].clone()
        outside[:, :, d * d : (d + 1) ** 2] = 0
        assert outside.abs().sum() == 0, "degrees are mixed"
    return [whole[:, d * d : (d + 1) ** 2, d * d : (d + 1) ** 2] for d in range(degree + 1)]


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rotation_onto_y_in_every_degree(degree, dtype):
    r = torch.cat((directions(20), near_poles()))
    found = matrices(r.to(dtype), degree)
    assert (found[0] - 1).abs().max() < tolerances.ROTATION[dtype]
    tolerance = tolerances.ROTATION[dtype] * (degree + 1)
    vector = found[1].double()
    y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(len(r), 3)
    assert ((vector @ r[:, :, None]).squeeze(-1) - y).abs().max() < tolerance
    assert (torch.linalg.det(vector) - 1).abs().max() < tolerance
    probe = directions(7)
    constants = recurrence_constants(degree)
    turned, before = (spherical_harmonics(p, constants) for p in (probe @ vector.mT, probe))
    for d, matrix in enumerate(found):
        matrix = matrix.double()
        assert matrix.dtype == torch.float64
        assert (matrix @ matrix.mT - torch.eye(2 * d + 1, dtype=torch.float64)).abs().max() < tolerance
        columns = slice(d * d, (d + 1) ** 2)
        difference = turned[:, :, columns] - before[:, columns] @ matrix.mT
        assert difference.abs().max() / (2 * d + 1) ** 0.5 < 4 * tolerance


def test_e3nn_agrees():
    _, vector, *higher = matrices(directions(20), 6)
    angles = o3.matrix_to_angles(vector)
    for d, matrix in enumerate(higher, start=2):
        assert (matrix - wigner_d(d, *angles)).abs().max() < 1e-9


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("max_order", [0, 1, 2, 6])
def test_align_and_restore_also_of_fewer_degrees_and_orders(degrees, max_order):
    """Features of fewer degrees than the rotation holds; orders that are left out count as zero."""
    max_order = min(max_order, degrees - 1)
    r = directions(6)
    rotation, exact = rotation_of(r, 6), matrices(r, 6)
    x = torch.randn(6, degrees**2, 3, dtype=torch.float64)
    orders = [part.unflatten(-1, (degrees - m, 3)) for m, part in enumerate(rotation.align(x, degrees, max_order))]
    expected = []
    for d in range(degrees):
        turned = exact[d] @ x[:, d * d : (d + 1) ** 2]
        for m in range(-d, d + 1):
            if abs(m) <= max_order:
                got = orders[abs(m)][:, (1 if m > 0 else 0), d - abs(m)]
                torch.testing.assert_close(got, turned[:, d + m], rtol=0, atol=1e-12)
            else:
                turned[:, d + m] = 0
        expected.append(exact[d].mT @ turned)
    torch.testing.assert_close(rotation.restore(orders), torch.cat(expected, 1), rtol=0, atol=1e-12)


def test_undirected_edges_pass_only_invariants():
    directed = torch.tensor([1.0, 0.0])
    for d, matrix in enumerate(matrices(torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 0.0]]), 5, directed)):
        assert matrix[0].abs().max() > 0.1
        assert matrix[1].abs().max() == (1 if d == 0 else 0)


@settings(max_examples=6)
@given(sign=st.sampled_from([1.0, -1.0]), exponent=st.floats(-9, -3), azimuth=st.floats(0, 6.28))
def test_two_orders_of_gradients_close_to_the_poles(sign, exponent, azimuth):
    tilt = 10**exponent
    angle = torch.tensor(azimuth, dtype=torch.float64)
    r = torch.stack((tilt * angle.cos(), torch.tensor(sign, dtype=torch.float64), tilt * angle.sin()))[None]

    def function(r):
        return torch.cat([m.flatten() for m in matrices(torch.nn.functional.normalize(r, dim=-1), 2)])

    assert_gradients(function, {"r": r}, second=False)
    assert_gradients(function, {"r": r}, fast=True)


def test_gradients_are_bounded_everywhere():
    r = near_poles().requires_grad_()
    for matrix in matrices(r, 3):
        (gradient,) = torch.autograd.grad((matrix * torch.randn_like(matrix)).sum(), r, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100
