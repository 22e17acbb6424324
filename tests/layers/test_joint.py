"""Maps of one feature at once are the maps, one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.joint import (
    JointProduct,
    JointProducts,
    groups_of,
    is_narrow,
    ungrouped,
)
from equiformer_pytorch.layers.linear import Linear
from equiformer_pytorch.so3.rows import component_degrees
from tests.models import shake, total
from tests.ops.graphs import normal

# What comes in, and what each map gives; a number is an ``nn.Linear`` of degree 0.
FIBERS = {
    "equal": ((3, 3, 3), [(3, 3, 3), (2, 2, 2)]),
    "growing": ((1, 2, 3), [(2, 3, 4), (1, 2, 3)]),
    "shrinking": ((5, 3, 1), [(4, 2, 1), (6, 6, 2)]),
    "up and down": ((2, 2, 4, 4, 1), [(3, 3, 3, 3, 3), (2, 1, 2, 1, 2)]),
    "fewer degrees out": ((3, 3, 3), [(2, 2), (4,), (3, 3, 3)]),
    "all fewer": ((3, 3, 2), [(2, 2), (4,)]),
    "one degree": ((4,), [(3,), (2,)]),
    "invariants besides": ((3, 3, 2), [4, (3, 3, 2), 1]),
    "only invariants": ((3, 2), [(3,), 2]),
    "one map": ((2, 3), [(3, 2)]),
}


def made(name: str) -> tuple[Fiber, list[Linear | nn.Linear]]:
    fiber_in, fibers_out = FIBERS[name]
    maps: list[Linear | nn.Linear] = []
    for place, fiber in enumerate(fibers_out):
        if isinstance(fiber, int):
            maps.append(nn.Linear(fiber_in[0], fiber, bias=place != 0))
        else:
            maps.append(Linear(Fiber(fiber_in), Fiber(fiber), bias=place != 1))
    for k, linear in enumerate(maps):
        shake(linear.double(), 0.5, seed=k)
    return Fiber(fiber_in), maps


def one_by_one(maps: list[Linear | nn.Linear], x: Tensor) -> list[Tensor]:
    return [m(x[:, : m.in_features]) if isinstance(m, nn.Linear) else m(x) for m in maps]


def gradients(outputs: list[Tensor], maps: list[Linear | nn.Linear], x: Tensor) -> list[Tensor]:
    leaves = [x, *(p for linear in maps for p in linear.parameters())]
    loss = total((y * normal(*y.shape, seed=k)).sin().sum() for k, y in enumerate(outputs))
    first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(total(g.square().sum() for g in first), leaves, materialize_grads=True)
    return [*first, *second]


def assert_same(outputs: list[Tensor], maps: list[Linear | nn.Linear], x: Tensor) -> None:
    wanted = one_by_one(maps, x)
    for y, exact in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(y, exact, rtol=0, atol=1e-13)
    for one, other in zip(gradients(outputs, maps, x), gradients(wanted, maps, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("points", [0, 1, 5])
@pytest.mark.parametrize("name", FIBERS)
def test_one_product(name: str, points: int):
    fiber, maps = made(name)
    joint = JointProduct(maps)
    x = normal(points, fiber.width).requires_grad_()
    matrices = joint.build(joint.parameters_in_order())
    assert matrices[0].shape == (fiber.width, sum(joint.widths))
    assert_same(list(joint(x, matrices)), maps, x)


def test_columns_can_be_arranged():
    """Repeated, moved, spaced out: the map's columns, and its bias with them."""
    fiber, maps = made("shrinking")

    def arrange(columns: Tensor) -> Tensor:
        return torch.cat((columns[:, 3:5], columns, torch.zeros_like(columns[:, :1])), dim=1)

    joint = JointProduct(maps, {0: arrange})
    x = normal(4, fiber.width)
    first, second = joint(x, joint.build(joint.parameters_in_order()))
    plain = one_by_one(maps, x)
    torch.testing.assert_close(first, arrange(plain[0]))
    torch.testing.assert_close(second, plain[1])


@pytest.mark.parametrize("points", [0, 1, 5])
@pytest.mark.parametrize("name", FIBERS)
def test_a_product_for_each_group_of_degrees(name: str, points: int):
    fiber, maps = made(name)
    joint = JointProducts(maps)
    assert joint.groups[0][0] == 0
    assert joint.groups[-1][1] == len(fiber)
    x = normal(points, fiber.width).requires_grad_()
    matrices = joint.build(joint.parameters_in_order())
    assert_same([feature_of(m) for m in joint(joint.split(x), matrices)], maps, x)


def feature_of(mapped) -> Tensor:
    """Degrees one after the other; invariants alone come besides."""
    return ungrouped(mapped.groups) if mapped.groups else mapped.besides


@pytest.mark.parametrize("ranges", [[(1, 3)], [(1, 2), (0, 1), (2, 3)], [(0, 3)], []])
@pytest.mark.parametrize("name", ["equal", "shrinking", "fewer degrees out", "one degree"])
def test_channels_of_degree_0_besides(name: str, ranges: list[tuple[int, int]]):
    """Some ranges, in that order, and again; with as many left in degree 0 as in the others it can be in one group
    with them."""
    fiber, maps = made(name)
    widths = [m.fiber_out[0] if isinstance(m, Linear) else 0 for m in maps]
    place = [width >= 3 for width in widths].index(True)
    kept = widths[place] - 2
    joint = JointProducts(maps, {place: (kept, ranges)})
    x = normal(5, fiber.width).requires_grad_()
    mapped = joint(joint.split(x), joint.build(joint.parameters_in_order()))
    wanted = one_by_one(maps, x)
    for k, (found, whole) in enumerate(zip(mapped, wanted, strict=True)):
        if k != place:
            torch.testing.assert_close(feature_of(found), whole, rtol=0, atol=1e-13)
            continue
        invariants, higher = whole[:, : kept + 2], whole[:, kept + 2 :]
        torch.testing.assert_close(feature_of(found), torch.cat((invariants[:, :kept], higher), dim=1))
        besides = [invariants[:, first:end] for first, end in ranges]
        torch.testing.assert_close(found.besides, torch.cat([x[:, :0], *besides], dim=1))
    outputs = [x for m in mapped for x in (*m.groups, m.besides)]
    # Gradients of what is taken, beside those of the maps that give it.
    leaves = [x, *(p for linear in maps for p in linear.parameters())]
    found = torch.autograd.grad(total(y.square().sum() for y in outputs), leaves, materialize_grads=True)
    invariants, higher = wanted[place][:, : kept + 2], wanted[place][:, kept + 2 :]
    taken = [invariants[:, :kept], higher, *(invariants[:, first:end] for first, end in ranges)]
    taken += [whole for k, whole in enumerate(wanted) if k != place]
    exact = torch.autograd.grad(total(y.square().sum() for y in taken), leaves, materialize_grads=True)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_groups_by_shapes_that_are_given():
    fiber, maps = made("equal")
    joint = JointProducts(maps, shapes=[0, 1, 1])
    assert joint.groups == [(0, 1), (1, 3)]
    x = normal(4, fiber.width).requires_grad_()
    assert_same([ungrouped(m.groups) for m in joint(joint.split(x), joint.build(joint.parameters_in_order()))], maps, x)


def test_rows_are_all_degrees_side_by_side():
    for name in ("equal", "up and down"):
        fiber, maps = made(name)
        joint = JointProducts(maps)
        x = normal(4, fiber.width)
        mapped = joint(joint.split(x), joint.build(joint.parameters_in_order()))
        torch.testing.assert_close(mapped[0].rows(), maps[0](x).unflatten(1, (len(fiber) ** 2, -1)))


def test_split_is_a_view_and_ungrouped_its_inverse():
    fiber, maps = made("up and down")
    joint = JointProducts(maps)
    x = normal(4, fiber.width)
    groups = joint.split(x)
    assert all(g.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for g in groups)
    assert [tuple(g.shape) for g in groups] == [(4, high**2 - low**2, fiber[low]) for low, high in joint.groups]
    assert ungrouped(groups).equal(x)


def test_groups_and_degrees_of_components():
    assert groups_of([3, 3, 2, 2, 2, 3]) == [(0, 2), (2, 5), (5, 6)]
    assert groups_of([1]) == [(0, 1)]
    assert component_degrees(0, 3).tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert component_degrees(1, 3).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_narrow_is_what_one_product_serves_best():
    assert is_narrow(Fiber((4, 4, 2)), [Fiber((8, 8, 8))])
    assert not is_narrow(Fiber((128,) * 4), [Fiber((128,) * 4)])


@pytest.mark.parametrize("name", FIBERS)
def test_they_have_no_parameters_of_their_own(name: str):
    _, maps = made(name)
    for joint in (JointProduct(maps), JointProducts(maps)):
        assert not joint.state_dict()
        of_maps = [id(p) for linear in maps for p in linear.parameters()]
        assert sorted(map(id, joint.parameters_in_order())) == sorted(of_maps)
