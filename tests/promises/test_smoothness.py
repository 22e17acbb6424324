"""Promise 4: outputs and gradients are continuous as a point crosses the radius."""

import pytest
import torch

from tests.models import KINDS, build, example, over_inputs

RADIUS = 2.0
CASES = [k for k in KINDS if k not in ("l2-adjacency", "l2-radius")]


def scene(kind: str, **options):
    """Two points near the origin, and a third whose distance from the first is the path's coordinate."""
    model = build(**{**KINDS[kind], "valid_radius": RADIUS, **options}, noise=0.03)
    one = example(model, batch=1, points=3)
    direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64), dim=0)

    def at(distances) -> torch.Tensor:
        """For each distance the outputs, and the gradient of a scalar of them by the coordinates."""
        distances = torch.as_tensor(distances, dtype=torch.float64)
        count = len(distances)

        def repeat(x):
            return x.expand(count, *x.shape[1:])

        coors = torch.zeros(count, 3, 3, dtype=torch.float64)
        coors[:, 1] = -0.7 * direction
        coors[:, 2] = distances[:, None] * direction
        coors.requires_grad_()
        inputs = over_inputs(repeat, one.inputs)
        extra = {name: repeat(x) for name, x in one.extra.items()}
        if "adj_mat" in extra:
            extra["adj_mat"] = torch.ones(3, 3, dtype=torch.bool)
        out = model(inputs, coors, **extra, return_all_degrees=True)
        values = torch.cat([x.flatten(1) for x in out.values()], dim=1)
        weights = torch.linspace(-1, 1, values.shape[1], dtype=torch.float64)
        (gradient,) = torch.autograd.grad((values * weights).sum(), coors)
        return torch.cat((values.detach(), gradient.flatten(1)), dim=1)

    return at


@pytest.mark.parametrize("attend_self", [True, False])
@pytest.mark.parametrize("kind", CASES)
def test_no_jump_at_the_radius(kind, attend_self):
    at = scene(kind, attend_self=attend_self)
    for crossing in (RADIUS, RADIUS - 0.7):  # where the third point leaves the first, and the second
        inside, on, outside = at([crossing - 1e-12, crossing, crossing + 1e-12])
        assert (outside - inside).abs().max() < 1e-6
        assert (on - inside).abs().max() < 1e-6
    near, far = at([0.5, RADIUS])
    assert (near - far).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["l2", "mlp", "mlp-linear-heads", "mlp-adjacency"])
def test_differences_along_a_path_shrink_with_the_step(kind):
    """First differences halve with the step, of outputs and of gradients, all along the path across the radius."""
    at = scene(kind)
    for crossing in (RADIUS, RADIUS - 0.7):
        path = at(torch.linspace(crossing - 0.02, crossing + 0.02, 65))
        coarse, fine = (path[::step].diff(dim=0).abs().max() for step in (2, 1))
        assert coarse > 1e-6
        assert fine < 0.6 * coarse
        # Second differences shrink by four where second derivatives exist; a kink would leave them halved.
        coarse, fine = (path[::step].diff(n=2, dim=0).abs().max() for step in (2, 1))
        assert fine < 0.4 * coarse


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_gradient_is_the_slope_across_the_radius(kind):
    """No hidden step: the change of the output across the radius is the integral of its gradient."""
    model = build(**KINDS[kind], valid_radius=RADIUS)
    one = example(model, batch=1, points=2)
    grid = torch.linspace(RADIUS - 0.5, RADIUS + 0.1, 601, dtype=torch.float64, requires_grad=True)
    ends = grid[:, None] * torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    out = model(one.inputs.expand(601, -1, -1), torch.stack((torch.zeros_like(ends), ends), dim=1))
    values = out.type0.square().sum((1, 2))
    (slopes,) = torch.autograd.grad(values.sum(), grid)
    change = (values[-1] - values[0]).item()
    assert abs(change) > 1e-4
    assert abs(torch.trapezoid(slopes, grid).item() - change) < 1e-3 * abs(change)


def test_beyond_the_radius_nothing_changes():
    at = scene("l2")
    far, farther = at([RADIUS + 1.5, RADIUS + 5.0])
    assert (far - farther).abs().max() < 1e-12


def test_the_only_neighbour_leaves_smoothly_in_float32():
    model = build(torch.float32, valid_radius=RADIUS, attend_self=False)
    sample = example(model, batch=1, points=2).to(torch.float32)

    def at(distance: float) -> torch.Tensor:
        out = model(sample.inputs, torch.tensor([[[0.0, 0, 0], [0, distance, 0]]]), return_all_degrees=True)
        return torch.cat([x.flatten() for x in out.values()])

    assert (at(RADIUS - 1e-5) - at(RADIUS + 1e-5)).abs().max() < 1e-4
    assert (at(RADIUS - 1e-5) - at(0.5)).abs().max() > 1e-2
