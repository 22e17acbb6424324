"""Promise 8: the caller's things are not changed, models share nothing, no files, no output, no global state."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import equiformer_pytorch
from tests.models import KINDS, build, example, squares

ROOT = Path(equiformer_pytorch.__file__).parents[1]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_changed(kind, masked):
    model = build(**KINDS[kind])
    sample = example(model)
    if masked:
        sample.extra["mask"] = torch.rand(2, 7) < 0.8
    if "adj_mat" in sample.extra:
        sample.extra["adj_mat"] |= torch.eye(7, dtype=torch.bool)
    sample.coors.requires_grad_()
    inputs = sample.inputs if isinstance(sample.inputs, dict) else {0: sample.inputs}
    tensors = [sample.coors, *inputs.values(), *sample.extra.values()]
    before = [(x, x.detach().clone(), x._version, x.requires_grad) for x in tensors]
    keys = list(inputs.items())
    squares(sample.all_degrees(model)).backward()
    for x, copy, version, grad in before:
        assert x.equal(copy)
        assert x._version == version
        assert x.requires_grad == grad
    if isinstance(sample.inputs, dict):
        assert all(a == b and x is y for (a, x), (b, y) in zip(sample.inputs.items(), keys, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_not_views_of_inputs_or_state(kind):
    model = build(**KINDS[kind])
    sample = example(model)
    state = {name: x.clone() for name, x in (*model.named_parameters(), *model.named_buffers())}
    first = sample.all_degrees(model)
    kept = {d: x.clone() for d, x in first.items()}
    with torch.no_grad():
        for x in first.values():
            x.zero_()
        for x in (sample.coors, *([sample.inputs] if isinstance(sample.inputs, torch.Tensor) else [])):
            assert x.abs().sum() > 0
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        assert x.equal(state[name]), name
    for degree, x in sample.all_degrees(model).items():
        assert x.equal(kept[degree])


def test_models_share_no_state():
    options: dict[str, Any] = {"num_degrees": 4, "dim": 3, "output_degrees": 4}
    one, two = build(**options), build(**options)

    def storages(model):
        return {
            x.untyped_storage().data_ptr(): name
            for name, x in (*model.named_parameters(), *model.named_buffers())
            if x.numel()
        }

    shared = storages(one).keys() & storages(two).keys()
    assert not shared, [storages(one)[s] for s in shared]
    sample = example(two)
    before = sample.all_degrees(two)
    with torch.no_grad():
        for x in (*one.parameters(), *one.buffers()):
            x.zero_()
    three = build(**options)
    for model in (two, three):
        for degree, x in sample.all_degrees(model).items():
            assert x.equal(before[degree])


FIRST = """
import torch
from equiformer_pytorch import Equiformer
from equiformer_pytorch.irr_repr import irr_repr
from equiformer_pytorch.utils import torch_default_dtype

options = {"dim": 2, "num_degrees": 4}
with torch.inference_mode():
    irr_repr(3, torch.zeros(3))
    Equiformer(**options)
with torch.device("meta"), torch_default_dtype(torch.bfloat16):
    assert next(Equiformer(**{**options, "num_degrees": 6}).buffers()).is_meta

irr_repr(3, torch.zeros(3, requires_grad=True)).sum().backward()
model = Equiformer(**{**options, "num_degrees": 6})
assert {b.device.type for b in model.buffers()} == {"cpu"}
coors = torch.randn(1, 4, 3, requires_grad=True)
model(torch.randn(1, 4, 2), coors).type1.sum().backward()
assert coors.grad.isfinite().all()
"""


@pytest.mark.slow
def test_where_the_first_model_is_built_does_not_matter_to_the_next():
    """No cache of tensors: the first in inference mode, on the meta device, in another default dtype."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FIRST], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_configuration_is_not_changed():
    dim, heads = [4, 3, 2], [2, 2, 2]
    equiformer_pytorch.Equiformer(dim=dim, heads=heads, num_degrees=3)
    assert dim == [4, 3, 2]
    assert heads == [2, 2, 2]


PROBE = """
    import json, logging, os, random, sys, warnings

    opened, started = [], False

    def audit(event, args):
        if not started:
            return
        if event == "open" and args[1] is not None and any(c in str(args[1]) for c in "wax+"):
            opened.append(str(args[0]))
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.append(str(args[0]))
        elif event in ("os.mkdir", "os.rename", "os.remove", "socket.connect", "subprocess.Popen", "os.system"):
            opened.append(f"{event} {args[0]}")

    sys.addaudithook(audit)
    import torch, torch.func, einops, jaxtyping, beartype.door

    torch.zeros(2) @ torch.zeros(2, 2)

    def world():
        return {
            "dtype": str(torch.get_default_dtype()),
            "device": str(torch.get_default_device()),
            "grad": torch.is_grad_enabled(),
            "anomaly": torch.is_anomaly_enabled(),
            "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "precision": torch.get_float32_matmul_precision(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "print": repr(torch._tensor_str.PRINT_OPTS),
            "filters": [str(f) for f in warnings.filters],
            "environment": sorted(os.environ.items()),
            "random": hash(random.getstate()),
            "logging": [str(h) for h in logging.getLogger().handlers] + [logging.getLogger().level],
            "path": list(sys.path),
            "cwd": os.getcwd(),
            "recursion": sys.getrecursionlimit(),
            "hooks": [repr(sys.excepthook), len(sys.meta_path)],
        }

    before, torch_state = world(), torch.get_rng_state()
    started = True
    import equiformer_pytorch
    rng_after_import = torch.get_rng_state().equal(torch_state)
    torch.manual_seed(0)
    models = [
        equiformer_pytorch.Equiformer(dim=4, num_degrees=11, reversible=True),
        equiformer_pytorch.Equiformer(dim=4, num_tokens=3, l2_dist_attention=False, num_linear_attn_heads=1),
    ]
    models[1](torch.zeros(1, 5).long(), torch.randn(1, 5, 3)).type0.sum().backward()
    started = False
    after = world()
    with open(os.environ["PROBE_RESULT"], "w") as file:
        json.dump({
            "changed": {k: [str(before[k]), str(after[k])] for k in before if before[k] != after[k]},
            "opened": opened,
            "rng_after_import": rng_after_import,
        }, file)
"""


def test_import_and_construction_are_silent_and_leave_no_trace(tmp_path):
    home, cwd, result = tmp_path / "home", tmp_path / "cwd", tmp_path / "result.json"
    home.mkdir()
    cwd.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PROBE_RESULT": str(result),
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    script = tmp_path / "probe.py"
    script.write_text(textwrap.dedent(PROBE))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    found = json.loads(result.read_text())
    assert found["changed"] == {}
    assert found["opened"] == []
    assert found["rng_after_import"]
    assert list(home.iterdir()) == []
    assert list(cwd.iterdir()) == []


def test_a_call_leaves_global_state_alone(capfd):
    model = build(torch.float32)
    sample = example(model).to(torch.float32)
    rng = torch.get_rng_state()
    sample.all_degrees(model)
    assert torch.get_rng_state().equal(rng)
    assert capfd.readouterr() == ("", "")
