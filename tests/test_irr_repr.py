"""`rot` and `irr_repr`: ZYZ angles, on vectors and on features of any degree."""

import math

import pytest
import torch

from equiformer_pytorch.irr_repr import irr_repr, rot
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics


def elementary(axis: str, angle: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    rows = {"z": [[c, -s, 0], [s, c, 0], [0, 0, 1]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}
    return torch.tensor(rows[axis], dtype=torch.float64)


def test_rot_is_z_y_z_on_columns():
    a, b, c = 0.3, 1.1, -2.0
    expected = elementary("z", a) @ elementary("y", b) @ elementary("z", c)
    torch.testing.assert_close(rot(a, b, c), expected.float(), rtol=0, atol=1e-6)
    angles = torch.tensor([a, b, c], dtype=torch.float64)
    torch.testing.assert_close(rot(*angles), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(irr_repr(1, angles), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 10])
def test_irr_repr_turns_harmonics(degree):
    angles = torch.randn(4, 3, dtype=torch.float64)
    points = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=-1)
    constants = recurrence_constants(degree)
    turned = spherical_harmonics(points @ rot(*angles.unbind(-1)).mT, constants)[..., degree**2 :]
    expected = spherical_harmonics(points, constants)[:, degree**2 :] @ irr_repr(degree, angles).mT
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-11)


def test_batches_dtypes_and_gradients():
    angles = torch.randn(2, 5, 3)
    assert rot(*angles.unbind(-1)).shape == (2, 5, 3, 3)
    assert irr_repr(2, angles).shape == (2, 5, 5, 5)
    assert irr_repr(2, angles).dtype == torch.float32
    assert torch.autograd.gradcheck(lambda a: irr_repr(2, a), torch.randn(3, dtype=torch.float64, requires_grad=True))


@pytest.mark.unchecked
def test_errors():
    with pytest.raises(ValueError, match="degree"):
        irr_repr(-1, torch.zeros(3))
    with pytest.raises(ValueError, match="angles"):
        irr_repr(1, torch.zeros(4))
