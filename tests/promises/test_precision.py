"""Promise 6: low precision, autocast and other default dtypes run; geometry is of at least float32."""

import pytest
import torch

from equiformer_pytorch import Equiformer
from equiformer_pytorch.utils import torch_default_dtype
from tests import tolerances
from tests.models import KINDS, SMALL, Example, build, example, grad_of, relative, squares

HALF = [torch.bfloat16, torch.float16]
SOME = ["l2", "mlp", "mlp-linear-heads", "l2-radius", "l2-adjacency", "l2-edges", "l2-reversible", "mlp-reflection"]


def geometry(model, sample: Example):
    """What the frames of the edges are made from and what comes out: (vectors, distances, matrices)."""
    caught = []

    def hook(_, args, out):
        caught.append((args[0].detach(), out[0].detach(), [block.detach() for block in out[1].blocks]))

    handle = model.edge_frame.register_forward_hook(hook)
    out = sample.all_degrees(model)
    handle.remove()
    return caught[0], out


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", SOME)
def test_half_precision_modules(kind, dtype):
    exact = build(**KINDS[kind], noise=0.03)
    sample = example(exact, spread=0.7)
    expected = sample.all_degrees(exact)
    model = build(dtype, **KINDS[kind], noise=0.03)
    low = sample.to(dtype)
    for coors in (sample.coors.float(), low.coors):
        coors = coors.clone().requires_grad_()
        out = Example(low.inputs, coors, low.extra).all_degrees(model)
        for degree, x in out.items():
            assert x.dtype == dtype
            assert x.isfinite().all()
            assert relative(x, expected[degree]) < tolerances.LOW_PRECISION[dtype]
        squares({degree: x.float() for degree, x in out.items()}).backward()
        assert grad_of(coors).isfinite().all()
        assert grad_of(coors).abs().max() > 0


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", SOME)
def test_autocast(kind, dtype):
    model = build(torch.float32, **KINDS[kind], noise=0.03)
    sample = example(model, spread=0.7).to(torch.float32)
    expected = sample.all_degrees(model)
    sample.coors.requires_grad_()
    with torch.autocast("cpu", dtype):
        out = sample.all_degrees(model)
    assert any((x - expected[d]).abs().max() > 1e-6 for d, x in out.items()), "autocast had no effect"
    for degree, x in out.items():
        assert relative(x, expected[degree]) < tolerances.LOW_PRECISION[dtype]
    squares({degree: x.float() for degree, x in out.items()}).backward()
    for tensor in (sample.coors, *model.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast", "default float64", "default bfloat16"])
def test_geometry_is_computed_in_at_least_float32(how):
    """Far from the origin, where half precision coordinates could not tell points apart."""
    exact = build(num_degrees=5, dim=3)
    sample = example(exact)
    sample.coors += 200
    (vectors, distances, blocks), _ = geometry(exact, sample)
    dtype = getattr(torch, how) if how in ("bfloat16", "float16") else torch.float32
    model = build(dtype, num_degrees=5, dim=3)
    low = sample.to(dtype)
    low = Example(low.inputs, sample.coors.float(), low.extra)
    default = {"default float64": torch.float64, "default bfloat16": torch.bfloat16}.get(how, torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"), torch_default_dtype(default):
        (low_vectors, low_distances, low_blocks), _ = geometry(model, low)
    for tensor in (low_vectors, low_distances, *low_blocks):
        assert tensor.dtype in (torch.float32, torch.float64)
    # What float32 can hold of coordinates around 200, and no less.
    rounding = 200 * torch.finfo(torch.float32).eps
    assert (low_vectors - vectors).abs().max() < 2 * rounding
    assert (low_distances - distances).abs().max() < 4 * rounding
    short = distances.min()
    for one, two in zip(low_blocks, blocks, strict=True):
        assert (one - two).abs().max() < 100 * rounding / short


def test_constants_of_the_frames_survive_casts():
    model = build(torch.float32, num_degrees=4, dim=2)
    before = dict(model.edge_frame.named_buffers())
    assert before
    back = build(torch.float32, num_degrees=4, dim=2).half().bfloat16().float()
    for name, buffer in back.edge_frame.named_buffers():
        assert buffer.dtype == torch.float64 or not buffer.is_floating_point()
        assert buffer.equal(before[name])


@pytest.mark.parametrize("kind", ["l2", "mlp"])
def test_a_model_cast_there_and_back_is_as_equivariant(kind):
    model = build(torch.float32, **KINDS[kind]).bfloat16().float()
    exact = build(torch.float64, **KINDS[kind])
    exact.load_state_dict(model.state_dict())
    sample = example(exact)
    expected = sample.all_degrees(exact)
    for degree, x in sample.to(torch.float32).all_degrees(model).items():
        assert relative(x, expected[degree]) < 1e-5


@pytest.mark.parametrize("default", [torch.float64, torch.float32, torch.bfloat16])
def test_default_dtype_at_construction(default):
    with torch_default_dtype(default):
        model = Equiformer(**SMALL, num_tokens=5)
        assert {p.dtype for p in model.parameters()} == {default}
        out = model(torch.randint(0, 5, (2, 4)), torch.randn(2, 4, 3))
    assert out.type0.dtype == default
    assert out.type1.isfinite().all()
    # And called later, under another default.
    assert model(torch.randint(0, 5, (2, 4)), torch.randn(2, 4, 3)).type0.dtype == default


@pytest.mark.parametrize("options", [{}, {"num_adj_degrees_embed": 3, "adj_dim": 2}, {"num_linear_attn_heads": 1}])
def test_default_dtype_does_not_change_results(options):
    model = build(torch.float32, **options)
    sample = example(model).to(torch.float32)
    if "adj_dim" in options:
        sample.extra["adj_mat"] = torch.ones(7, 7).tril(1).triu(-1).bool()
    plain = sample.all_degrees(model)
    with torch_default_dtype(torch.float64):
        for degree, x in sample.all_degrees(model).items():
            assert x.dtype == torch.float32
            assert x.equal(plain[degree])


def test_mixed_dtypes_of_coordinates_and_parameters():
    for parameters in (torch.float32, torch.float64):
        model = build(parameters)
        sample = example(model).to(parameters)
        for coors in (torch.float16, torch.float32, torch.float64):
            out = model(sample.inputs, sample.coors.to(coors))
            assert out.type0.dtype == parameters
            assert out.type1.isfinite().all()
        for features in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            assert model(sample.inputs.to(features), sample.coors).type0.dtype == parameters
