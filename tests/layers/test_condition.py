"""Numbers of whole structures: conditioning of features, and of a model's blocks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from equiformer_pytorch import Equiformer
from equiformer_pytorch.graph.edges import Condition
from equiformer_pytorch.layers.condition import Conditioning
from equiformer_pytorch.layers.fiber import Fiber
from tests.models import blocks, build, example, grad_of, relative, shake


def test_the_formula():
    fiber = Fiber((3, 2, 1))
    layer = shake(Conditioning(fiber, 4).double(), 1.0)
    values, structure = torch.randn(2, 4, dtype=torch.float64), torch.tensor([0, 0, 1])
    x = torch.randn(3, fiber.width, dtype=torch.float64)
    found = fiber.split(layer(x, Condition(values, structure)))
    scales = layer.to_scales(values)[structure]
    first = 0
    for degree, (part, given) in enumerate(zip(found, fiber.split(x), strict=True)):
        of_degree = 1 + scales[:, first : first + fiber[degree]]
        wanted = given * of_degree[:, None] + (scales[:, None, 6:] if degree == 0 else 0)
        torch.testing.assert_close(part, wanted)
        first += fiber[degree]
    assert torch.equal(Conditioning(fiber, 4)(x.float(), Condition(values.float(), structure)), x.float()), "at first"
    with pytest.raises(ValueError, match="condition is missing"):
        layer(x, None)


@pytest.mark.parametrize("options", [{}, {"l2_dist_attention": False, "depth": 3}, {"reversible": True}])
def test_every_block_is_conditioned_and_structures_are_apart(options: dict):
    model = build(condition_dim=2, **options)
    sample = example(model)
    expected = sample.all_degrees(model)
    sample.extra["condition"] = sample.extra["condition"] + torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    found = sample.all_degrees(model)
    for degree, x in expected.items():
        assert torch.equal(found[degree][0], x[0])
        assert relative(found[degree][1], x[1]) > 1e-3
    sample.extra["condition"].requires_grad_()
    model(**sample.call()).type1.sum().backward()
    for attention, feed_forward in blocks(model):
        assert grad_of(attention.condition.to_scales.weight).abs().max() > 0
        assert grad_of(feed_forward.condition.to_scales.weight).abs().max() > 0
    assert (grad_of(sample.extra["condition"]).abs() > 0).all()


@pytest.mark.parametrize("reversible", [False, True])
def test_gradient_by_the_condition(reversible: bool):
    model = build(condition_dim=2, reversible=reversible)
    sample = example(model, points=4)
    given = sample.extra.pop("condition")

    def loss(condition: torch.Tensor) -> torch.Tensor:
        return model(**sample.call(), condition=condition).type1.square().sum()

    given.requires_grad_()
    (found,) = torch.autograd.grad(loss(given), given)
    for entry in range(given.numel()):
        step = torch.zeros(given.numel(), dtype=torch.float64)
        step[entry] = 1e-5
        step = step.view_as(given)
        difference = (loss(given + step) - loss(given - step)).item() / 2e-5
        assert found.flatten()[entry].item() == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_flat_and_pyg_are_the_dense_form():
    model = build(condition_dim=2, dim_out=(1, 4), output_degrees=2, norm_out=False)
    sample = example(model, batch=2, points=5)
    expected = model(**sample.call())
    assert expected.type0.shape == (2, 5, 1)
    assert expected.type1.shape == (2, 5, 4, 3)
    batch = torch.arange(2).repeat_interleave(5)
    inputs, coors, condition = sample.inputs.flatten(0, 1), sample.coors.flatten(0, 1), sample.extra["condition"]
    found = model(inputs, coors, batch=batch, condition=condition)
    torch.testing.assert_close(found.type1, expected.type1.flatten(0, 1))
    data = SimpleNamespace(x=inputs, pos=coors, batch=batch, num_graphs=2, condition=condition)
    torch.testing.assert_close(model(data).type1, found.type1)
    order = torch.randperm(10)
    mixed = model(inputs[order], coors[order], batch=batch[order], condition=condition)
    torch.testing.assert_close(mixed.type1, found.type1[order])


def test_magnitudes_survive_without_the_last_norm():
    """Without blocks, whose norms bring features to order one, vectors are linear in the input but for the norm."""
    for norm_out in (True, False):
        model = build(depth=0, dim_in=4, dim=4, dim_out=(1, 2), output_degrees=2, norm_out=norm_out)
        assert ("norm.gain" in model.state_dict()) == norm_out
        x, coors = torch.randn(1, 6, 4, dtype=torch.float64), torch.randn(1, 6, 3, dtype=torch.float64)
        ratio = model(1e4 * x, coors).type1.norm() / model(1e3 * x, coors).type1.norm()
        assert ratio.item() == pytest.approx(1 if norm_out else 10, rel=0.01)


@pytest.mark.parametrize(
    ("error", "given", "words"),
    [
        (ValueError, None, "condition is missing: the model was built with condition_dim = 2"),
        (ValueError, torch.zeros(3, 2), r"condition must have shape \(structures, condition_dim\) = \(2, 2\)"),
        (ValueError, torch.zeros(2, 3), "condition must have shape"),
        (ValueError, torch.tensor([[0.0, 0.0], [torch.inf, 0.0]]), "condition must be finite for every structure"),
        (TypeError, torch.zeros(2, 2).long(), "condition must be floating point"),
        (TypeError, [[0.0, 0.0]] * 2, "condition must be a torch.Tensor, got list"),
    ],
)
@pytest.mark.unchecked
def test_errors(error: type[Exception], given: object, words: str):
    model = Equiformer(dim=4, num_tokens=3, condition_dim=2)
    with pytest.raises(error, match=words):
        model(torch.zeros(2, 5).long(), torch.randn(2, 5, 3), condition=given)


def test_what_is_of_no_use_is_an_error():
    model = Equiformer(dim=4, num_tokens=3)
    with pytest.raises(ValueError, match="condition would be ignored: set condition_dim"):
        model(torch.zeros(2, 5).long(), torch.randn(2, 5, 3), condition=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="reduce_dim_out reads out one channel per degree"):
        Equiformer(dim=4, dim_out=3, reduce_dim_out=True)
    with pytest.raises(ValueError, match="dim_out must have one entry for each of the 2 degrees"):
        Equiformer(dim=4, dim_out=(1, 2, 3))
