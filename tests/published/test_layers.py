"""Layers of the published models beside their formulas, and what they promise of symmetry and derivatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from e3nn import o3
from torch import Tensor

from equiformer_pytorch.ops import pieces, recompute
from equiformer_pytorch.published.activation import GATE, KINDS, NAMES, Activation, channel_factor, scalar_channels
from equiformer_pytorch.published.drop import EquivariantDropout, GraphDropPath
from equiformer_pytorch.published.feedforward import FeedForward
from equiformer_pytorch.published.heads import ScalarFeedForward, StressHead
from equiformer_pytorch.published.linear import DegreeLinear, linear
from equiformer_pytorch.published.norm import EPS, DegreeNorm, MergedNorm, RMSNorm, SeparableNorm
from equiformer_pytorch.published.radial import GaussianSmearing, RadialNetwork, element_embeddings
from equiformer_pytorch.published.so2 import SO2Linear
from equiformer_pytorch.published.sphere_grid import SphereGrid, equiangular
from equiformer_pytorch.so3.grid import sphere_quadrature
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.testing import Role, assert_equivariant, assert_gradients, equivariance_errors
from tests.models import Model, shake, total
from tests.ops.graphs import edge_graph, normal
from tests.oracle import order_major
from tests.published import plain
from tests.published_cases import relative

SAME = 1e-11
# Equivariant on any grid: no function but products meets the samples.
EXACT = [GATE, "sep_s2_square", "sep-merge_gates2_swiglu"]


def alive(layer: Model, scale: float = 0.4) -> Model:
    return shake(layer.double().eval(), scale)


# SO(2) maps

CUTS = [(2, 2), (3, 1), (2, 0), (0, 0), (4, 2)]


@pytest.mark.parametrize("scales", [None, True, False])
@pytest.mark.parametrize("keep", [None, (0, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("invariants", [0, 3])
@pytest.mark.parametrize(("lmax", "mmax"), CUTS)
def test_so2_maps_are_complex_matrices(lmax: int, mmax: int, invariants: int, keep: Any, scales: bool | None):
    if keep is not None and keep[1] > lmax + 1:
        return
    layer = SO2Linear(3, 2, lmax, mmax, orders="orders", invariants=invariants, keep=keep, scales=scales)
    alive(layer)
    x = normal(5, len(order_major(lmax, mmax)), 3)
    entries = lmax + 1 if scales else sum(lmax + 1 - m for m in range(mmax + 1))
    w = None if scales is None else normal(5, entries * 3, seed=1)
    by_row = None if w is None else plain.row_scales(w, lmax, mmax, bool(scales))
    found, wanted = [], []
    for made, (message, besides) in ((found, layer(x, w)), (wanted, plain.so2(layer, x, by_row))):
        made += [message, besides]
        loss = message.sin().sum() + besides.sin().sum()
        made += torch.autograd.grad(loss, list(layer.parameters()), materialize_grads=True, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_so2_maps_have_the_published_shapes():
    layer = SO2Linear(3, 2, 2, 2, orders="so2_m_conv", invariants=4)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "fc_m0.weight": (4 + 6, 9),
        "fc_m0.bias": (10,),
        "so2_m_conv.0.fc.weight": (8, 6),
        "so2_m_conv.1.fc.weight": (4, 3),
    }


def test_so2_maps_have_gradients_of_two_orders():
    layer = alive(SO2Linear(2, 1, 2, 1, orders="orders", invariants=1, scales=True))
    given = {"x": normal(2, 7, 2), "scales": normal(2, 6, seed=1)}
    assert_gradients(layer, given, fast=True)
    assert_gradients(layer, given, parameters=True, fast=True)


# Grids


@pytest.mark.parametrize("latitudes", [2, 6, 7, 20])
def test_equiangular_latitudes_integrate_polynomials(latitudes: int):
    y, weights = equiangular(latitudes)
    for power in range(latitudes):
        assert abs((weights * y**power).sum() - (1 - power % 2) / (power + 1)) < 1e-13


@pytest.mark.parametrize("order_major_rows", [False, True])
@pytest.mark.parametrize(
    ("lmax", "mmax", "resolution"), [(2, 2, None), (3, 3, (8, 7)), (4, 2, (14, 9)), (3, 1, None), (0, 0, None)]
)
def test_grids_there_and_back(lmax: int, mmax: int, resolution: Any, order_major_rows: bool):
    """Back is the inverse of there, twice rescaled where orders are left out."""
    grid = SphereGrid(lmax, mmax, resolution, order_major=order_major_rows)
    rows = order_major(lmax, mmax)
    if not order_major_rows:
        rows.sort()
    to, back = grid.matrices(torch.float64)
    factors = torch.tensor([plain.rescale(degree, mmax) for degree, _ in rows], dtype=torch.float64)
    torch.testing.assert_close(back @ to, torch.diag(factors**2), rtol=0, atol=1e-12)
    assert (
        to.shape[0] == (2 * lmax + 2) * (2 * mmax + (3 if mmax == lmax else 1))
        if resolution is None
        else math.prod(resolution)
    )


def test_samples_are_those_of_the_harmonics():
    """Of e3nn, at equiangular latitudes and longitudes from z towards x, every degree with the same variance."""
    to, _ = SphereGrid(3, 3, (8, 9), order_major=False).matrices(torch.float64)
    theta = (torch.arange(8, dtype=torch.float64) + 0.5) * math.pi / 8
    phi = torch.arange(9, dtype=torch.float64) * 2 * math.pi / 9
    points = torch.stack(
        (
            theta.sin()[:, None] * phi.sin(),
            theta.cos()[:, None].expand(8, 9),
            theta.sin()[:, None] * phi.cos(),
        ),
        dim=2,
    ).flatten(0, 1)
    harmonics = o3.spherical_harmonics([0, 1, 2, 3], points, normalize=False, normalization="component")
    degrees = torch.tensor([d for d in range(4) for _ in range(2 * d + 1)])
    torch.testing.assert_close(to, harmonics / ((2 * degrees + 1) * 4).double().sqrt(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("lmax", "mmax", "resolution"), [(2, 2, (8, 8)), (4, 2, (14, 7)), (3, 3, (14, 14))])
def test_grids_for_products_give_the_same_from_fewer_samples(lmax: int, mmax: int, resolution: tuple[int, int]):
    grids = [SphereGrid(lmax, mmax, resolution, order_major=True, product=product) for product in (False, True)]
    x, y = normal(len(order_major(lmax, mmax)), 1), normal(len(order_major(lmax, mmax)), 1, seed=1)
    results, samples = [], []
    for grid in grids:
        to, back = grid.matrices(torch.float64)
        results.append(back @ ((to @ x) * (to @ y)))
        samples.append(len(to))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    assert samples[1] < samples[0]


@pytest.mark.parametrize("resolution", [(4, 9), (7, 9), (8, 0)])
def test_grids_that_are_too_coarse(resolution: tuple[int, int]):
    with pytest.raises(ValueError, match=r"grid needs .*(even number of latitudes, at least 8|one longitude)"):
        SphereGrid(3, 3, resolution, order_major=False)


# Activations


def activation(name: str, lmax: int, resolution: Any = None, **options: Any) -> tuple[Activation, dict[str, Tensor]]:
    """Of degree-major features that it turns into 2 channels, and arguments."""
    options = {"order_major": False, **options}
    layer = Activation(name, lmax, options.pop("mmax", lmax), resolution, **options).double().eval()
    x = normal(4, (lmax + 1) ** 2, 2 * channel_factor(name))
    return layer, {"x": x, "scalars": normal(4, scalar_channels(name, 2, lmax), seed=1)}


@pytest.mark.parametrize("name", [name for name in NAMES if name != GATE])
def test_activations_are_functions_on_a_sphere(name: str):
    """Whatever the quadrature, if it is fine enough: the grid's own, or another one."""
    layer, given = activation(name, 2, None if name in EXACT else (40, 41))
    if name in EXACT:
        layer, given = activation(name, 2, (8, 8))
    points, weights = sphere_quadrature(50)
    harmonics = spherical_harmonics(points, recurrence_constants(2))
    rows = [(d, m) for d in range(3) for m in range(-d, d + 1)]
    wanted = plain.sampled(layer, 0.3 * given["x"], points, weights, harmonics, rows)
    kind, scalars = KINDS[name.removesuffix("_mem")], given["scalars"]
    if kind.gated:
        scalars, gate = scalars.split([4, 2], dim=1)
        wanted = wanted * gate.sigmoid()[:, None]
    one, other = scalars.chunk(2, dim=1)
    value = {"SILU": F.silu(scalars), "SWIGLU": F.silu(one) * other, "SQUARE": one * other}
    of_scalars = value["SILU" if not kind.halves else "SQUARE" if "square" in name else "SWIGLU"]
    if kind.scalars == "replace":
        wanted[:, 0] = of_scalars
    elif kind.scalars == "add":
        wanted[:, 0] += of_scalars
    torch.testing.assert_close(layer(0.3 * given["x"], given["scalars"]), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order_major_rows", [False, True])
@pytest.mark.parametrize(("lmax", "mmax"), [(0, 0), (2, 2), (3, 3)])
def test_gates(lmax: int, mmax: int, order_major_rows: bool):
    layer, given = activation(GATE, lmax, order_major=order_major_rows)
    rows = order_major(lmax, mmax)
    if not order_major_rows:
        rows.sort()
    found = layer(**given)
    gates = given["scalars"].unflatten(1, (lmax, 2)).sigmoid() if lmax else None
    for k, (degree, _) in enumerate(rows):
        part = given["x"][:, k]
        wanted = part * part.sigmoid() if degree == 0 else part * gates[:, degree - 1]
        torch.testing.assert_close(found[:, k], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_edges_are_those_of_points_in_another_order(name: str):
    layer, given = activation(name, 2, (8, 8))
    in_frames, _ = activation(name, 2, (8, 8), order_major=True)
    places = [d * d + d + m for d, m in order_major(2, 2)]
    found = in_frames(given["x"][:, places], given["scalars"])
    torch.testing.assert_close(found, layer(**given)[:, places], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_equivariance_of_activations(name: str):
    """Exact for gates, squares and gates2; on fine grids for the others, which are not on coarse ones."""
    roles, outputs = {"x": Role.up_to_degree(2), "scalars": Role(points=(0,))}, Role.up_to_degree(2)
    layer, given = activation(name, 2, (8, 8))
    if name.removesuffix("_mem") in EXACT:
        assert_equivariant(layer, given, roles=roles, outputs=outputs, tolerance=SAME)
        return
    errors = []
    for n in (6, 12, 40):
        layer, given = activation(name, 2, (n, n + 1))
        errors.append(max(equivariance_errors(layer, given, roles=roles, outputs=outputs)["rotation"].values()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8 < errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_activations_of_two_orders(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(recompute, "PIECE", 200)
    layer, given = activation(name, 2, mmax=1, order_major=True)
    given["x"] = given["x"][:, :7]
    assert_gradients(layer, given, fast=True)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (GATE, "s2")])
def test_activations_in_pieces_and_traced(monkeypatch: pytest.MonkeyPatch, name: str):
    """The same as in one go; and under the transforms of torch.func."""
    layer, given = activation(name, 2)
    leaf = given["x"].clone().requires_grad_()
    whole = layer(leaf, given["scalars"])
    (slope,) = torch.autograd.grad(whole.sin().sum(), leaf)
    found = torch.func.grad(lambda x: layer(x, given["scalars"]).sin().sum())(given["x"])
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-13)
    monkeypatch.setattr(recompute, "PIECE", 1)
    parts = layer(leaf, given["scalars"])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)
    (found,) = torch.autograd.grad(parts.sin().sum(), leaf)
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["gate", "s2", "sep_s2_swiglu", "sep-merge_gates2_swiglu"])
def test_dropout_of_activations(name: str):
    """In training alone; what stays is worth more, so that the mean stays."""
    calm, given = activation(name, 2, (20, 21))
    layer, _ = activation(name, 2, (20, 21), dropout=0.3)
    torch.testing.assert_close(layer(**given), calm(**given), rtol=0, atol=1e-6)
    layer.train()
    torch.manual_seed(0)
    many = {key: value[:1].expand(4000, *value.shape[1:]) for key, value in given.items()}
    found = layer(**many)
    assert found.std(0).max() > 0.05
    mean, wanted = found.mean(0), calm(**given)[0]
    assert (mean - wanted).abs().max() < 5 * float(found.std(0).max()) / 4000**0.5


# Feed-forward networks


def feed_forward(name: str, grid_mlp: bool, lmax: int = 2, **options: Any) -> FeedForward:
    options = {"bias_rank": 1, **options}
    torch.manual_seed(0)
    return alive(FeedForward(3, 2, 4, lmax, (8, 8), name, grid_mlp=grid_mlp, **options))


NETWORKS = [(name, grid_mlp) for name in NAMES for grid_mlp in (False, True) if not (grid_mlp and name == GATE)]


def plain_feed_forward(layer: FeedForward, name: str, grid_mlp: bool, x: Tensor) -> Tensor:
    """All maps where they are published: those of a grid network act on the samples."""

    def per_degree(linear: DegreeLinear, x: Tensor) -> Tensor:
        parts = [x[:, d * d : (d + 1) ** 2] @ w.T for d, w in enumerate(linear.weight)]
        return torch.cat((parts[0] + linear.bias, *parts[1:]), dim=1)

    hidden = per_degree(layer.so3_linear_1, x)
    if not grid_mlp:
        scalars = x[:, 0, :0] if layer.gating_linear is None else layer.gating_linear(x[:, 0])
        return per_degree(layer.so3_linear_2, layer.act(hidden, scalars))
    network, kind = layer.grid_mlp, KINDS[name.removesuffix("_mem")]
    to, back = layer.grid.matrices(torch.float64)
    samples = network.get_submodule(network.first_name)(to @ hidden)
    one, other = samples.chunk(2, dim=2)
    if kind.gated:
        samples = one * other * network.gating_linear(x[:, 0]).sigmoid()[:, None]
    elif "square" in name:
        samples = one * other
    elif kind.halves:
        samples = F.silu(one) * other
    else:
        assert network.middle is not None
        samples = F.silu(network.get_submodule(network.middle)(F.silu(samples)))
    hidden = back @ network.get_submodule(network.last_name)(samples)
    if kind.scalars != "none":
        value = layer.scalar_mlp(x[:, :1])
        one, other = value.chunk(2, dim=2)
        value = one * other if "square" in name else F.silu(one) * other if kind.halves else F.silu(value)
        hidden = torch.cat((value + (hidden[:, :1] if kind.scalars == "add" else 0), hidden[:, 1:]), dim=1)
    return per_degree(layer.so3_linear_2, hidden)


@pytest.mark.parametrize(("name", "grid_mlp"), NETWORKS)
def test_feed_forward_is_its_formula(name: str, grid_mlp: bool):
    layer, x = feed_forward(name, grid_mlp), normal(5, 9, 3)
    torch.testing.assert_close(layer(x), plain_feed_forward(layer, name, grid_mlp, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "grid_mlp"), NETWORKS)
@pytest.mark.parametrize("keep", [(0, 1), (1, 2), (0, 2), (2, 3)])
def test_what_is_not_wanted_is_not_computed(name: str, grid_mlp: bool, keep: tuple[int, int]):
    """The rest is the same, and all parameters have gradients: zero where they do not matter."""
    whole, part = feed_forward(name, grid_mlp), feed_forward(name, grid_mlp, keep=keep)
    part.load_state_dict(whole.state_dict())
    x = normal(5, 9, 3)
    rows = slice(keep[0] ** 2, keep[1] ** 2)
    torch.testing.assert_close(part(x), whole(x)[:, rows], rtol=0, atol=1e-13)
    part(x).sin().sum().backward()
    whole(x)[:, rows].sin().sum().backward()
    for (key, one), other in zip(part.named_parameters(), whole.parameters(), strict=True):
        grad = torch.zeros_like(one) if other.grad is None else other.grad
        if one.grad is None:  # what only others read
            assert not grad.any(), key
        else:
            torch.testing.assert_close(one.grad, grad, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize("grid_mlp", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_feed_forward_is_equivariant(name: str, grid_mlp: bool):
    if grid_mlp and name == GATE:
        return
    roles = {"x": Role.up_to_degree(2)}
    assert_equivariant(
        feed_forward(name, grid_mlp), {"x": normal(5, 9, 3)}, roles=roles, outputs=Role.up_to_degree(2), tolerance=SAME
    )


@pytest.mark.parametrize(("name", "grid_mlp"), NETWORKS)
def test_feed_forward_in_pieces(monkeypatch: pytest.MonkeyPatch, name: str, grid_mlp: bool):
    """Of atoms, and of samples."""
    layer, x, results = feed_forward(name, grid_mlp), normal(7, 9, 3), []
    for largest, piece in ((2**26, 2**18), (40, 2**18), (2**26, 200)):
        monkeypatch.setattr(pieces, "LARGEST", largest)
        monkeypatch.setattr(recompute, "PIECE", piece)
        leaves = [x.clone().requires_grad_(), *layer.parameters()]
        y = layer(leaves[0])
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(total(g.sin().sum() for g in first), leaves, materialize_grads=True)
        results.append([y, *first, *second])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert relative(two, one) < 1e-12


@pytest.mark.parametrize(
    ("name", "grid_mlp"), [("gate", False), ("sep_s2_swiglu", True), ("sep-merge_gates2_swiglu", True)]
)
def test_feed_forward_has_gradients_of_two_orders(name: str, grid_mlp: bool):
    layer = feed_forward(name, grid_mlp, lmax=1)
    assert_gradients(layer, {"x": normal(2, 4, 3)}, fast=True)
    assert_gradients(layer, {"x": normal(2, 4, 3)}, parameters=True, fast=True)


def test_scalar_feed_forward():
    layer, x = alive(ScalarFeedForward(4, 5)), normal(6, 4)
    torch.testing.assert_close(layer(x), layer.linear_2(F.silu(layer.linear_1(x))))
    assert layer(x).shape == (6, 1)


# Norms

NORMS = {
    "degree": lambda: DegreeNorm(3, 4),
    "separable": lambda: SeparableNorm(3, 4),
    "merged": lambda: MergedNorm(3, 4),
    "merged without centring": lambda: MergedNorm(3, 4, centring=False),
}


def plain_norm(name: str, layer: Any, x: Tensor) -> Tensor:
    parts = list(x.split([1, 3, 5, 7], dim=1))
    if name != "merged without centring":
        parts[0] = parts[0] - parts[0].mean(2, keepdim=True)
    squares = torch.stack([part.square().mean((1, 2)) for part in parts])
    scales = {
        "degree": list(squares),
        "separable": [squares[0], *[squares[1:].mean(0)] * 3],
        "merged": [squares.mean(0)] * 4,
        "merged without centring": [squares.mean(0)] * 4,
    }[name]
    gains = list(layer.affine_weight)
    bias = getattr(layer, "affine_bias", None)
    if name == "separable":
        gains, bias = [layer.norm_l0.weight, *gains], layer.norm_l0.bias
    normed = [
        part / (scale + EPS).sqrt()[:, None, None] * gain
        for part, scale, gain in zip(parts, scales, gains, strict=True)
    ]
    if bias is not None:
        normed[0] = normed[0] + bias
    return torch.cat(normed, dim=1)


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str):
    layer, x = alive(NORMS[name]()), normal(5, 16, 4) * torch.tensor([1e-2, 1.0, 1.0, 30.0, 1.0])[:, None, None]
    torch.testing.assert_close(layer(x), plain_norm(name, layer, x), rtol=1e-11, atol=1e-11)
    roles, outputs = {"x": Role.up_to_degree(3)}, Role.up_to_degree(3)
    assert_equivariant(layer, {"x": normal(5, 16, 4)}, roles=roles, outputs=outputs, tolerance=SAME)
    assert_gradients(layer, {"x": normal(2, 16, 4)}, fast=True)
    assert layer(torch.zeros(1, 16, 4, dtype=torch.float64))[:, 1:].abs().max() == 0
    assert layer.float()(x.float()).dtype == torch.float32
    assert relative(layer.float()(x.float()).double(), plain_norm(name, layer.double(), x)) < 1e-4


def test_rms_norm_is_of_single_precision():
    layer, x = alive(RMSNorm(4)), normal(5, 2, 4)
    wanted = x / (x.square().mean(2, keepdim=True) + EPS).sqrt() * layer.weight
    found = layer(x)
    assert found.dtype == torch.float64
    assert 1e-12 < relative(found, wanted) < 1e-6
    low = layer.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert relative(low.double(), wanted) < 2e-2


# Functions of the length of an edge


@pytest.mark.parametrize("elements", [0, 6])
@pytest.mark.parametrize("widths", [(3, 4, 5, 8), (3, 4, 8)])
def test_the_radial_network_in_two_parts_is_the_network(elements: int, widths: tuple[int, ...]):
    """The first map is split by what it takes, the last one is left."""
    graph = edge_graph([2, 0, 3])
    sender = receiver = None
    if elements:
        sender, receiver = (alive(made) for made in element_embeddings(elements, 4))
    network = alive(RadialNetwork((widths[0] + (8 if elements else 0), *widths[1:])))
    found = F.linear(network(graph, sender, receiver), *network.last())
    wanted = plain.radial(network, graph, sender, receiver)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    parameters = [*network.parameters(), *(p for e in (sender, receiver) if e is not None for p in e.parameters())]
    grads = [torch.autograd.grad(y.sin().sum(), parameters) for y in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    # In a piece of the graph receivers count anew; elements are those of all atoms.
    (_, piece), *_ = [found for found in graph.pieces(3) if found[0].start > 0]
    torch.testing.assert_close(
        network(piece, sender, receiver), network(graph, sender, receiver)[2:], rtol=0, atol=1e-13
    )


def test_layers_of_the_radial_network():
    names = [type(layer).__name__ for layer in RadialNetwork((3, 4, 5, 8)).net]
    assert names == ["Linear", "LayerNorm", "SiLU", "Linear", "LayerNorm", "SiLU", "Linear"]


def test_gaussians():
    smearing, distance = GaussianSmearing(5.0, 11), torch.linspace(0, 7, 9, dtype=torch.float64)
    centres = torch.linspace(0, 5, 11, dtype=torch.float64)
    wanted = (-0.5 * ((distance[:, None] - centres) / 1.0).square()).exp()
    torch.testing.assert_close(smearing(distance), wanted)
    assert smearing.count == 11
    single = smearing(torch.tensor([0.0, 500.0]))
    assert single.dtype == torch.float32
    assert single[1].abs().max() == 0, "no denormal numbers"
    with pytest.raises(ValueError, match="at least two"):
        GaussianSmearing(5.0, 1)
    assert_gradients(smearing, {"distance": distance})


# Linear maps


@pytest.mark.parametrize("bias_rank", [1, 3])
def test_degree_linear(bias_rank: int):
    layer, x = alive(DegreeLinear(3, 4, 2, bias_rank=bias_rank)), normal(5, 9, 3)
    assert layer.bias.shape == (1,) * (bias_rank - 1) + (4,)
    wanted = torch.einsum("pkc,koc->pko", x, layer.weight[[0, 1, 1, 1, 2, 2, 2, 2, 2]])
    wanted[:, 0] += layer.bias.flatten()
    torch.testing.assert_close(layer(x), wanted)
    roles, outputs = {"x": Role.up_to_degree(2)}, Role.up_to_degree(2)
    assert_equivariant(layer, {"x": x}, roles=roles, outputs=outputs, tolerance=SAME)
    vectors = layer.of_parts((x[:, :0], x[:, 1:4], x[:, :0]))
    torch.testing.assert_close(vectors, wanted[:, 1:4])
    vectors.sum().backward()
    assert layer.weight.grad[1].abs().min() > 0
    assert not layer.weight.grad[[0, 2]].any()


def test_linear_maps_start_as_published():
    for normal_ in (False, True):
        made = linear(400, 300, normal=normal_)
        of_degrees = DegreeLinear(400, 300, 1, normal=normal_)
        for weight in (made.weight, *of_degrees.weight):
            assert abs(weight.std().item() * 20 * (1 if normal_ else 3**0.5) - 1) < 0.02
            assert normal_ == bool(weight.abs().max() > 0.05001)
        assert not made.bias.any()
        assert not of_degrees.bias.any()
    assert linear(3, 4, bias=False).bias is None


# Drops


def test_whole_structures_lose_a_branch():
    layer, batch = GraphDropPath(0.25), torch.arange(4000).repeat_interleave(2)
    x = normal(8000, 4, 3)
    assert layer.eval()(x, batch, 4000) is x
    y = layer.train()(x, batch, 4000)
    factors = (y / x).unflatten(0, (4000, 2)).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    kept = factors[:, 0] > 0.5
    torch.testing.assert_close(factors[kept], torch.full_like(factors[kept], 1 / 0.75))
    assert not factors[~kept].any()
    assert abs(kept.double().mean() - 0.75) < 0.03
    assert GraphDropPath(0.0).train()(x, batch, 4000) is x


@pytest.mark.parametrize("by_degree", [False, True])
def test_whole_channels_are_dropped(by_degree: bool):
    layer, x = EquivariantDropout(0.25, 2, by_degree=by_degree), normal(3000, 9, 2)
    assert layer.eval()(x) is x
    layer.train()
    factors = layer(x) / x
    degrees = [factors[:, d * d : (d + 1) ** 2] for d in range(3)]
    for of_degree in degrees:
        torch.testing.assert_close(of_degree, of_degree[:, :1].expand_as(of_degree))
    kept = torch.stack([of_degree[:, 0] > 0.5 for of_degree in degrees])
    torch.testing.assert_close(
        torch.stack([d[:, 0] for d in degrees])[kept], torch.full((int(kept.sum()),), 1 / 0.75).double()
    )
    assert abs(kept.double().mean() - 0.75) < 0.03
    together = (kept == kept[:1]).all(0).double().mean()
    assert (together < 0.7) if by_degree else (together == 1)

    def again(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return layer(x)

    roles, outputs = {"x": Role.up_to_degree(2)}, Role.up_to_degree(2)
    assert_equivariant(again, {"x": x[:5]}, roles=roles, outputs=outputs, tolerance=SAME, under=("rotation",))


# Stress


@pytest.mark.parametrize("lmax", [2, 3])
def test_stress_is_a_symmetric_tensor_of_each_structure(lmax: int):
    """The mean over its atoms of degrees 0, the trace, and 2."""
    torch.manual_seed(0)
    layer = alive(StressHead(3, 4, lmax))
    x, batch = normal(6, (lmax + 1) ** 2, 3), torch.tensor([0, 0, 0, 1, 1, 3])

    def stress(x: Tensor) -> Tensor:
        return layer.of_structures(x, batch, 4)

    found = stress(x).unflatten(1, (3, 3))
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-14)
    assert not found[2].any()
    single = layer.of_structures(x, torch.arange(6), 6).unflatten(1, (3, 3))
    torch.testing.assert_close(found[[0, 1, 3]], torch.stack([single[:3].mean(0), single[3:5].mean(0), single[5]]))
    trace = found.diagonal(dim1=1, dim2=2).sum(1)
    y = layer(x)[:, 0, 0]
    means = torch.stack([y[:3].mean(), y[3:5].mean(), 0 * y[0], y[5]])
    torch.testing.assert_close(trace, 3**0.5 * means)
    roles = {"x": Role.up_to_degree(lmax)}
    assert_equivariant(stress, {"x": x}, roles=roles, outputs=Role(tensor=True), tolerance=SAME, under=("rotation",))
