"""What a call takes and returns."""

import inspect

import pytest
import torch

from equiformer_pytorch import Equiformer
from equiformer_pytorch.models.equiformer import Return
from tests.models import build, example


def test_call_signature():
    parameters = list(inspect.signature(Equiformer.forward).parameters)
    assert parameters[1:7] == ["inputs", "coors", "mask", "adj_mat", "edges", "return_pooled"]


def test_the_result_is_a_named_tuple_of_two():
    model = build()
    sample = example(model)
    out = model(sample.inputs, sample.coors)
    assert isinstance(out, Return)
    assert out._fields == ("type0", "type1")
    type0, type1 = out
    every = sample.all_degrees(model)
    assert type0.equal(every[0].squeeze(-1))
    assert type1 is not None
    assert type1.equal(every[1])


def test_return_pooled_is_the_masked_mean():
    for reduce in (True, False):
        model = build(reduce_dim_out=reduce)
        sample = example(model)
        mask = torch.tensor([[1, 1, 0, 1, 0, 0, 1], [1] * 7]).bool()
        plain, pooled = (model(sample.inputs, sample.coors, mask, return_pooled=p) for p in (False, True))
        for one, two in zip(plain, pooled, strict=True):
            expected = torch.stack([x[m].mean(0) for x, m in zip(one, mask, strict=True)])
            torch.testing.assert_close(two, expected)


@pytest.mark.parametrize("pooled", [False, True])
def test_everything_can_be_returned_together(pooled):
    model = build()
    sample = example(model)
    out, attn = model(sample.inputs, sample.coors, return_pooled=pooled, return_all_degrees=True, return_attn=True)
    assert out[2].shape == ((2, 3, 5) if pooled else (2, 7, 3, 5))
    assert len(attn) == 2
    assert all(len(layer) == 3 for layer in attn)


def test_attention_weights_of_reversible_models_are_the_same_kind():
    model = build(reversible=True, depth=3, output_degrees=2)
    sample = example(model)
    sample.coors.requires_grad_()
    _, attn = model(sample.inputs, sample.coors, return_attn=True)
    assert [len(layer) for layer in attn] == [3, 3, 2]
    for layer in attn:
        for weights, indices in layer:
            assert weights.shape == (2, 7, 2, 7)
            assert indices.shape == (2, 7, 7)
            assert (weights.sum(-1) - 1).abs().max() < 1e-9
            assert not weights.requires_grad
