import pytest
import torch

from equiformer_pytorch.utils import cast_tuple, default, exists, to_order, torch_default_dtype


def test_small_ones():
    assert exists(0)
    assert not exists(None)
    assert default(None, 3) == 3
    assert default(0, 3) == 0
    assert [to_order(degree) for degree in range(4)] == [1, 3, 5, 7]


def test_cast_tuple():
    assert cast_tuple(3, 2) == (3, 3)
    assert cast_tuple(3) == (3,)
    assert cast_tuple((1, 2), 5) == (1, 2)
    assert cast_tuple([1, 2]) == (1, 2)


def test_default_dtype_comes_back_after_an_error():
    def fail():
        with torch_default_dtype(torch.float64):
            raise RuntimeError(str(torch.zeros(1).dtype))

    with pytest.raises(RuntimeError, match=r"torch\.float64"):
        fail()
    assert torch.zeros(1).dtype == torch.float32
