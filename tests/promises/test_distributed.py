"""Promise 9: DistributedDataParallel without unused parameters, in every configuration, reversible too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import equiformer_pytorch
from tests.models import KINDS, blocks, build, example, squares

ROOT = Path(equiformer_pytorch.__file__).parents[1]

# Models beyond the common kinds: any number of degrees in, inside and out; depth 0 and 1.
MORE = {
    f"degrees {n} out {out} depth {depth} reversible {reversible}": {
        "num_degrees": n,
        "dim": 3,
        "output_degrees": out,
        "depth": depth,
        "reversible": reversible,
    }
    for n in (1, 2, 4)
    for out in (1, 2, 4)
    for depth in (0, 1, 2)
    for reversible in (False, True)
}
MORE |= {
    "three degrees in": {"input_degrees": 3, "dim_in": (3, 2, 2), "output_degrees": 1},
    "more degrees in than inside": {"input_degrees": 3, "dim_in": (3, 2, 2), "num_degrees": 2, "dim": 4},
    "tokens": {"num_tokens": 4, "num_positions": 9, "embedding_grad_frac": 0.0},
    "no self": {"attend_self": False, "gate_attn_head_outputs": False},
    "reduced": {"reduce_dim_out": True, "output_degrees": 1},
    "reduced by feed-forward": {"reduce_dim_out": True, "linear_out": False, "output_degrees": 2},
    "norms": {"ff_include_htype_norms": True, "output_degrees": 1},
    "zero start": {"init_out_zero": True, "num_linear_attn_heads": 1},
    "high degree": {"num_degrees": 6, "dim": 2, "output_degrees": 6, "depth": 1},
}


@pytest.mark.parametrize("attention", ["l2", "mlp"])
@pytest.mark.parametrize("name", [*KINDS, *MORE])
def test_no_parameter_is_unused(name, attention):
    """Every parameter gets a gradient when everything that comes out is read: what DDP demands. And what the last
    layers do not read out, they do not hold."""
    options = {**KINDS[attention], **{**KINDS, **MORE}[name]}
    model = build(**options)
    out = example(model, points=6).all_degrees(model)
    assert set(out) == set(range(min(model.output_degrees, model.num_degrees)))
    squares(out).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


WORKER = """
import os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.models import build, example, squares

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for options in (
    {},
    {"l2_dist_attention": False, "output_degrees": 1, "num_linear_attn_heads": 1},
    {"reversible": True, "depth": 3, "output_degrees": 2},
    {"reversible": True, "l2_dist_attention": False, "num_degrees": 5, "dim": 3, "output_degrees": 5},
    {"attend_sparse_neighbors": True, "num_neighbors": 1, "num_adj_degrees_embed": 2, "adj_dim": 2},
    {"num_tokens": 5, "num_edge_tokens": 4, "edge_dim": 2, "reduce_dim_out": True},
):
    single = build(**options)
    model = DistributedDataParallel(build(**options), find_unused_parameters=False)
    for step in range(2):  # the second step fails where the first left parameters without gradient
        samples = [example(single, batch=1, points=4 + r, seed=10 * step + r) for r in range(2)]
        model.zero_grad(); single.zero_grad()
        mine = samples[rank]
        out = model(mine.inputs, mine.coors, **mine.extra, return_all_degrees=True)
        squares(out).backward()
        for s in samples:
            (squares(s.all_degrees(single)) / 2).backward()
        for (name, p), q in zip(single.named_parameters(), model.module.parameters()):
            scale = p.grad.abs().max() + 1e-12
            assert (p.grad - q.grad).abs().max() <= 1e-9 * scale, (options, name)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Gradients are the mean of both processes', with find_unused_parameters=False."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "rendezvous")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=150)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)


def test_unread_degrees_are_not_computed():
    """With fewer degrees read out the model is smaller, and the lower degrees are all there."""
    sizes = [sum(p.numel() for p in build(output_degrees=k).parameters()) for k in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    for k in (1, 2, 3):
        model = build(output_degrees=k)
        attention, feed_forward = blocks(model)[-1]
        assert len(attention.fiber_out) == len(feed_forward.fiber) == len(model.fiber_out) == k
    assert torch.is_tensor(example(model).all_degrees(model)[2])
