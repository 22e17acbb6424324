import math
from typing import Any

import pytest
import torch

from equiformer_pytorch.base import checks


@pytest.mark.parametrize("value", [None, 1, 5])
def test_numbers_that_pass(value):
    checks.check_number("depth", value, 1)
    checks.check_number("num_neighbors", math.inf, 0, unbounded=True)
    checks.check_number("num_neighbors", 4.0, 0, unbounded=True)
    checks.check_number("valid_radius", 0.5, 0, whole=False, exclusive=True)


@pytest.mark.parametrize(
    ("value", "options", "error"),
    [
        (0, {}, ValueError),
        (True, {}, TypeError),
        (1.5, {}, TypeError),
        (2.0, {}, TypeError),
        (math.inf, {}, TypeError),
        ("1", {}, TypeError),
        (1.5, {"unbounded": True}, TypeError),
        (math.nan, {"unbounded": True}, ValueError),
        (-math.inf, {"unbounded": True}, ValueError),
        (1, {"exclusive": True}, ValueError),
        (math.nan, {"whole": False}, ValueError),
    ],
)
def test_numbers_that_do_not(value, options, error):
    with pytest.raises(error, match="depth"):
        checks.check_number("depth", value, 1, **options)


def test_per_degree():
    assert checks.per_degree("dim", 4, 3) == (4, 4, 4)
    assert checks.per_degree("dim", [4, 8, 1], 3) == (4, 8, 1)
    bad: dict[Any, type[Exception]]
    bad = {(4, 4): ValueError, "abc": TypeError, (4, 0, 4): ValueError, (4, 4.5, 4): TypeError}
    for value, error in bad.items():
        with pytest.raises(error, match="dim"):
            checks.per_degree("dim", value, 3)


def test_as_bool():
    for tensor in (torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), torch.tensor([False, True])):
        assert checks.as_bool("mask", tensor).tolist() == [False, True]
    for tensor in (torch.tensor([0, 2]), torch.tensor([0.5]), torch.tensor([math.nan]), torch.tensor([1j])):
        with pytest.raises(ValueError, match="mask"):
            checks.as_bool("mask", tensor)


def test_coordinates_are_widened_but_never_narrowed():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        wide = torch.promote_types(dtype, torch.float32)
        assert checks.check_coordinates(torch.zeros(1, 2, 3, dtype=dtype)).dtype == wide


def test_check_finite_shows_the_first_bad_point():
    x = torch.zeros(3, 3)
    checks.check_finite("coors", x, "point")
    checks.check_finite("coors", x[:0], "point")
    x[1, 2] = math.inf
    with pytest.raises(ValueError, match=r"coors.*\[0.0, 0.0, inf\]"):
        checks.check_finite("coors", x, "point")


def test_degrees_come_back_as_a_new_dict():
    given = {1: torch.zeros(1), 0: torch.ones(1)}
    found = checks.check_degrees(given, 2)
    assert list(found) == [0, 1]
    assert found is not given
    assert found[1] is given[1]
