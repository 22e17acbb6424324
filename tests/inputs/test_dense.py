import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiformer_pytorch.inputs.layout import Layout
from tests.models import build, example


@given(data=st.data())
def test_compact_and_expand(data):
    structures, columns = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    bits = data.draw(st.lists(st.booleans(), min_size=structures * columns, max_size=structures * columns))
    mask = torch.tensor(bits, dtype=torch.bool).view(structures, columns)
    layout = Layout.of_mask(mask, structures, columns, torch.device("cpu"))
    x = torch.randn(structures, columns, 2)
    assert layout.compact(x).equal(x[mask])
    assert layout.expand(layout.compact(x)).equal(x * mask[:, :, None])
    assert layout.counts.tolist() == mask.sum(1).tolist()
    where = mask.nonzero()
    assert layout.structure.equal(where[:, 0])
    assert layout.name.equal(where[:, 1])


def test_no_mask_and_a_full_mask_are_the_same():
    full = Layout.of_mask(torch.ones(2, 3), 2, 3, torch.device("cpu"))
    assert full.flat is None
    assert full.name.tolist() == [0, 1, 2, 0, 1, 2]


INTEGERS = [getattr(torch, name) for name in ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_tokens_and_edges_of_any_integer_dtype(dtype):
    model = build(num_tokens=5, num_edge_tokens=4, edge_dim=2)
    sample = example(model)
    for mask in (None, torch.rand(2, 7) < 0.7):
        expected = model(sample.inputs, sample.coors, mask, edges=sample.extra["edges"])
        out = model(sample.inputs.to(dtype), sample.coors, mask, edges=sample.extra["edges"].to(dtype))
        assert out.type0.equal(expected.type0)


def test_edge_entry_i_j_is_what_i_sees_of_j():
    model = build(edge_dim=3, depth=0)
    sample = example(model)
    before = sample.all_degrees(model)
    sample.extra["edges"][0, 2, 5] += 1
    after = sample.all_degrees(model)
    changed = (after[0] - before[0]).abs().amax((2, 3)) > 1e-9
    assert changed.nonzero().tolist() == [[0, 2]]
    sample.extra["edges"][0, 3, 3] += 1
    for degree, x in sample.all_degrees(model).items():
        assert x.equal(after[degree])


def test_invariants_with_a_trailing_order():
    """{0: (b, n, c, 1)} and {0: (b, n, c)} and the bare tensor are the same input."""
    model = build()
    sample = example(model)
    plain = model(sample.inputs, sample.coors).type0
    assert model({0: sample.inputs}, sample.coors).type0.equal(plain)
    assert model({0: sample.inputs[..., None]}, sample.coors).type0.equal(plain)
