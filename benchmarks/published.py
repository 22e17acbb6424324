"""EquiformerV2 and V3 beside the official code: ``python -m benchmarks.published [--v2 DIR] [--v3 DIR] [--out DIR]``.

DIR are checkouts of atomicarchitects/equiformer_v2 and equiformer_v3 (see :mod:`benchmarks.official`; needs e3nn). Both
sides take training steps (gradients of all parameters) with the same weights and inputs, in float32 on one thread: a
Cu(111) slab with CO on it, 38 atoms with their 20 nearest neighbours, 760 edges; 4 layers of 128 channels. Every
measurement runs in a process of its own; the sides alternate, and ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import process
from benchmarks.process import ROOT
from benchmarks.worker import peak_mb, processor_seconds, resident_mb

NEIGHBOURS = 20
V2 = {
    "num_layers": 4,
    "sphere_channels": 128,
    "attn_hidden_channels": 64,
    "num_heads": 8,
    "attn_alpha_channels": 64,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 128,
    "norm_type": "layer_norm_sh",
    "lmax_list": [6],
    "mmax_list": [2],
    "grid_resolution": 18,
    "edge_channels": 128,
    "use_grid_mlp": True,
    "attn_activation": "silu",
    "ffn_activation": "silu",
    "alpha_drop": 0.0,
    "drop_path_rate": 0.0,
    "weight_init": "uniform",
    "max_radius": 12.0,
    "max_neighbors": NEIGHBOURS,
    "otf_graph": False,
}
V3 = {
    "num_layers": 4,
    "num_channels": 128,
    "attn_hidden_channels": 32,
    "num_heads": 8,
    "attn_alpha_channels": 64,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 512,
    "norm_type": "merge_layer_norm",
    "mmax": 2,
    "edge_channels": 128,
    "num_radial_basis": 64,
    "max_radius": 6.0,
    "max_neighbors": NEIGHBOURS,
    "regress_stress": True,
    "attn_weights_drop": 0.0,
    "drop_path_rate": 0.0,
    "otf_graph": False,
}
L4 = {"lmax": 4, "attn_grid_resolution_list": [14, 8], "ffn_grid_resolution_list": [14, 14]}
L6 = {"lmax": 6, "attn_grid_resolution_list": [20, 8], "ffn_grid_resolution_list": [20, 20]}
GRADIENT = {"direct_prediction": False, "avg_num_nodes": 1.0}
CASES: dict[str, tuple[str, dict[str, Any], float]] = {
    "V2, lmax 6": ("v2", V2, 2.0),
    "V3, lmax 4": ("v3", {**V3, **L4}, 1.4),
    "V3, lmax 6": ("v3", {**V3, **L6}, 1.4),
    "V3, lmax 4, gradient": ("v3", {**V3, **L4, **GRADIENT}, 1.4),
    "V3, lmax 6, gradient": ("v3", {**V3, **L6, **GRADIENT}, 1.4),
}


def slab() -> dict[str, Tensor]:
    """Cu(111), 3 × 3 × 4 atoms, CO on top, slightly shaken; every atom's nearest neighbours."""
    a = 3.61 / 2**0.5
    first, second = torch.tensor([a, 0.0, 0.0]), torch.tensor([a / 2, a * 3**0.5 / 2, 0.0])
    height, hollow = 3.61 / 3**0.5, (first + second) / 3
    positions = [
        i * first + j * second + layer % 3 * hollow + torch.tensor([0.0, 0.0, layer * height])
        for layer in range(4)
        for i in range(3)
        for j in range(3)
    ]
    top = positions[-5]
    positions += [top + torch.tensor([0.0, 0.0, 1.85]), top + torch.tensor([0.0, 0.0, 3.0])]
    pos = torch.stack(positions) + 0.02 * torch.randn(38, 3, generator=torch.Generator().manual_seed(0))
    cell = torch.stack((3 * first, 3 * second, torch.tensor([0.0, 0.0, 25.0])))[None]
    shifts = torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 2)
    shifts = torch.cat((shifts, torch.zeros(len(shifts), 1)), dim=1)
    images = (pos[:, None] + shifts @ cell[0]).reshape(-1, 3)
    distance = torch.cdist(pos.double(), images.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance[distance < 1e-4] = torch.inf
    nearest = distance.topk(NEIGHBOURS, largest=False).indices.flatten()
    return {
        "atomic_numbers": torch.tensor([29] * 36 + [6, 8]),
        "pos": pos,
        "cell": cell,
        "batch": torch.zeros(38, dtype=torch.long),
        "edge_index": torch.stack((nearest // len(shifts), torch.arange(38).repeat_interleave(NEIGHBOURS))),
        "cell_offsets": shifts[nearest % len(shifts)],
    }


def build(version: str, config: dict[str, Any], checkout: str | None) -> torch.nn.Module:
    """The model of one side, with weights that are the same on both."""
    if checkout is None:
        from equiformer_pytorch import EquiformerV2, EquiformerV3

        model: torch.nn.Module = (EquiformerV2 if version == "v2" else EquiformerV3)(**config)
    else:
        from benchmarks.official import official_v2, official_v3

        model = (official_v2 if version == "v2" else official_v3)(checkout, **config)
    # By name, since the sides register their parameters in another order.
    generator = torch.Generator()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            generator.manual_seed(sum(name.encode()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model.train()


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of a training step (median), memory above the import, and the loss for comparison.

    On one thread processor time is wall time, less what other processes take.
    """
    torch.set_num_threads(1)
    inputs = slab()
    torch.randn(8, 8).matmul(torch.randn(8, 8)).sum()
    before = resident_mb()
    model = build(job["version"], job["config"], job["checkout"])
    parameters = sum(p.numel() for p in model.parameters())

    def step() -> float:
        model.zero_grad()
        if job["checkout"] is None:
            outputs = model(**inputs)
        else:
            data = SimpleNamespace(natoms=torch.tensor([38]), **{name: x.clone() for name, x in inputs.items()})
            outputs = model(data)
            if isinstance(outputs, tuple):
                outputs = dict(zip(("energy", "forces"), outputs, strict=True))
        loss = torch.stack([value.square().mean() for value in outputs.values()]).sum()
        loss.backward()
        return float(loss.detach())

    loss = [step() for _ in range(2)][-1]
    seconds = processor_seconds(step, job["steps"])
    return {"step_s": seconds, "peak_mb": peak_mb() - before, "parameters": parameters, "loss": loss}


def compare(name: str, checkouts: dict[str, str | None], rounds: int, steps: int) -> dict[str, Any]:
    """Both sides, alternating."""
    version, config, wanted = CASES[name]
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "official": []}
    for _ in range(rounds):
        for side, runs in sides.items():
            checkout = None if side == "ours" else checkouts[version]
            if side == "ours" or checkout is not None:
                job = {"version": version, "config": config, "checkout": checkout, "steps": steps}
                runs += process.run("benchmarks.published", ROOT, {"measure": job})
    row: dict[str, Any] = {"what": name, "wanted": wanted}
    for side, runs in sides.items():
        if runs:
            row[side] = {key: median(run[key] for run in runs) for key in runs[0]}
    if sides["official"]:
        row["faster"] = row["official"]["step_s"] / row["ours"]["step_s"]
        row["memory"] = row["ours"]["peak_mb"] / row["official"]["peak_mb"]
    return row


def main() -> None:
    """Measure all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--v2", help="checkout of atomicarchitects/equiformer_v2")
    parser.add_argument("--v3", help="checkout of atomicarchitects/equiformer_v3")
    parser.add_argument("--out", type=Path, help="folder for published.json")
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for name in args.only or CASES:
        row = compare(name, {"v2": args.v2, "v3": args.v3}, args.rounds, args.steps)
        rows.append(row)
        print(json.dumps(row))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "published.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].startswith("{"):
        print(json.dumps(measure(json.loads(sys.argv[2])["measure"])))
    else:
        main()
