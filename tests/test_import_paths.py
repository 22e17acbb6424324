"""The import paths of the published package."""

import re
from typing import Any

import torch

import equiformer_pytorch
from tests.models import build


def test_paths():
    from equiformer_pytorch import Equiformer
    from equiformer_pytorch.irr_repr import irr_repr, rot
    from equiformer_pytorch.models.equiformer import Equiformer as Same
    from equiformer_pytorch.models.equiformer import L2DistAttention, MLPAttention
    from equiformer_pytorch.utils import cast_tuple, default, exists, to_order, torch_default_dtype
    from equiformer_pytorch.version import __version__

    assert Equiformer is Same
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert equiformer_pytorch.__version__ == __version__
    assert all(callable(f) for f in (irr_repr, rot, cast_tuple, default, exists, to_order, torch_default_dtype))
    for kind, cls in ((True, L2DistAttention), (False, MLPAttention)):
        for reversible in (True, False):
            model = build(l2_dist_attention=kind, reversible=reversible)
            blocks: Any = model.layers.blocks
            for block in blocks:
                assert isinstance(block[0], cls)
                assert isinstance(block[1], torch.nn.Module)


def test_blocks_are_attention_and_feed_forward():
    """Zeroing what the attention of block i gives, or its feed-forward, changes the result."""
    for reversible in (False, True):
        model = build(reversible=reversible)
        from tests.models import example

        sample = example(model)
        expected = sample.all_degrees(model)
        blocks: Any = model.layers.blocks
        for block in range(2):
            for part in range(2):
                handle = blocks[block][part].register_forward_hook(
                    lambda _, args, out: (out[0] * 0, out[1]) if isinstance(out, tuple) else out * 0
                )
                changed = sample.all_degrees(model)
                handle.remove()
                assert (changed[0] - expected[0]).abs().max() > 1e-4
