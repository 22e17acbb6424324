"""eSCN-MD beside fairchem-core: ``python -m benchmarks.escn_md [--fairchem PYTHON] [--out DIR]``.

PYTHON is that of an environment of its own with fairchem-core (``pip install torch==2.13.0 fairchem-core==2.24.0``).
Both sides have the same weights and inputs, in float32 on one thread: a Cu(111) slab with CO on it, 38 atoms with their
20 nearest neighbours, 760 edges; 4 layers of 128 channels, gates, no experts, as UMA-S once it is merged. A case is
"inference", energy, forces and stress of frozen weights, or "training", the gradients of all weights of a loss of all
three. Every measurement runs in a process of its own; the sides alternate, ratios are of medians, and the losses, which
are printed too, agree. fairchem's execution mode for inference alone runs as "fast".

``python -m benchmarks.escn_md --atoms N ...``: what large structures cost here: copper with all neighbours within 6 Å,
inference, and the exponent of processor time over edges.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import process
from benchmarks.process import ROOT
from benchmarks.worker import peak_mb, processor_seconds, resident_mb

BACKBONE: dict[str, Any] = {
    "max_num_elements": 100,
    "sphere_channels": 128,
    "hidden_channels": 128,
    "edge_channels": 128,
    "num_distance_basis": 64,
    "mmax": 2,
    "num_layers": 4,
    "cutoff": 6.0,
    "max_neighbors": 300,
    "direct_forces": False,
    "regress_stress": True,
    "norm_type": "rms_norm_sh",
    "act_type": "gate",
    "ff_type": "spectral",
    "chg_spin_emb_type": "rand_emb",
    "cs_emb_grad": True,
    "use_dataset_embedding": False,
}
HEAD = {"module": "fairchem.core.models.uma.escn_md.MLP_EFS_Head", "wrap_property": False}
DEGREES = (2, 4, 6)
KINDS = ("inference", "training")
FAST = "umas_fast_pytorch"


def build(side: str, lmax: int, kind: str) -> nn.Module:
    """A side's model, weights by name."""
    config = {**BACKBONE, "lmax": lmax, "otf_graph": False}
    if side == "ours":
        from equiformer_pytorch import ESCNMD

        model: nn.Module = ESCNMD(**config, heads={"efs": HEAD}, pass_through_head_outputs=True)
    else:
        from fairchem.core.models.base import HydraModel  # pyright: ignore[reportMissingImports]

        config |= {"execution_mode": FAST} if side == "fast" else {}
        name = "fairchem.core.models.uma.escn_md.eSCNMDBackbone"
        model = HydraModel({**config, "model": name}, {"efs": dict(HEAD)}, pass_through_head_outputs=True)
    generator = torch.Generator()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            generator.manual_seed(sum(name.encode()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    model.train(kind == "training")
    if kind == "inference":
        model.requires_grad_(False)
    if side == "fast":
        backbone: Any = model.get_submodule("backbone")
        backbone.backend.prepare_model_for_inference(backbone)
    return model


def caller(side: str, inputs: dict[str, Tensor]) -> Any:
    """Calls a side's model on structures."""
    if side == "ours":
        return lambda model: model(**inputs, charge=torch.tensor([0]), spin=torch.tensor([0]))
    from tests.data.build_escn_md import atomic_data

    more = {"charge": torch.tensor([0]), "spin": torch.tensor([0]), "dataset": ["omat"]}
    batch = torch.zeros(len(inputs["pos"]), dtype=torch.long)
    return lambda model: model(atomic_data({**inputs, "batch": batch, **more}))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of a step (median), memory above the imports, and the loss for comparison.

    On one thread processor time is wall time, less what other processes take.
    """
    torch.set_num_threads(1)
    from benchmarks.published import slab

    side, kind = job["side"], job["kind"]
    call = caller(side, slab())
    torch.randn(8, 8).matmul(torch.randn(8, 8)).sum()
    if side == "ours":
        import equiformer_pytorch.models.escn_md  # noqa: F401
    else:
        import fairchem.core.models.uma.escn_moe  # noqa: F401  # pyright: ignore[reportMissingImports]
    before = resident_mb()
    model = build(side, job["lmax"], kind)

    def step() -> float:
        model.zero_grad()
        with torch.set_grad_enabled(kind == "training" or side != "ours"):
            outputs = call(model)
            parts = [outputs[name].double().square().mean() for name in ("energy", "forces", "stress")]
        loss = torch.stack(parts).sum()
        if kind == "training":
            loss.backward()
        return float(loss.detach())

    loss = [step() for _ in range(2)][-1]
    seconds = processor_seconds(step, job["steps"])
    return {"step_s": seconds, "peak_mb": peak_mb() - before, "whole_mb": peak_mb(), "loss": loss}


def compare(lmax: int, kind: str, fairchem: str | None, rounds: int, steps: int) -> dict[str, Any]:
    """All sides, alternating."""
    others = [] if fairchem is None else ["fairchem", *["fast"] * (kind == "inference")]
    sides = ["ours", *others]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            job = {"side": side, "lmax": lmax, "kind": kind, "steps": steps}
            python = sys.executable if side == "ours" or fairchem is None else fairchem
            found[side] += process.run("benchmarks.escn_md", ROOT, job, python)
    row: dict[str, Any] = {"lmax": lmax, "kind": kind}
    for side, runs in found.items():
        row[side] = {key: median(run[key] for run in runs) for key in runs[0]}
    if "fairchem" in row:
        row["faster"] = row["fairchem"]["step_s"] / row["ours"]["step_s"]
        row["memory"] = row["ours"]["peak_mb"] / row["fairchem"]["peak_mb"]
    return row


def large(job: dict[str, Any]) -> dict[str, Any]:
    """One evaluation of a crystal."""
    torch.set_num_threads(job["threads"])
    from benchmarks.published_crystal import WARM_UP, crystal
    from equiformer_pytorch.graph.periodic import radius_graph

    def inputs(atoms: int) -> dict[str, Tensor]:
        made = crystal(atoms)
        edges = radius_graph(made["pos"], BACKBONE["cutoff"], cell=made["cell"])
        return made | dict(zip(("edge_index", "cell_offsets"), edges, strict=True))

    model = build("ours", job["lmax"], "inference")
    with torch.no_grad():
        caller("ours", inputs(WARM_UP))(model)
        call, given = caller("ours", made := inputs(job["atoms"])), made["edge_index"].shape[1]
        wall, processor = time.perf_counter(), time.process_time()
        call(model)
    seconds = {"processor_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
    return {"atoms": job["atoms"], "lmax": job["lmax"], "edges": given, **seconds, "peak_mb": peak_mb()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fairchem", help="the python of an environment with fairchem-core")
    parser.add_argument("--out", type=Path, help="folder for escn_md.json")
    parser.add_argument("--lmax", type=int, nargs="+", default=DEGREES)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--atoms", type=int, nargs="+", help="crystals of so many atoms instead")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rows = []
    if args.atoms:
        from benchmarks.published_crystal import exponent

        for lmax in args.lmax:
            made = [
                process.run("benchmarks.escn_md", ROOT, {"atoms": n, "lmax": lmax, "threads": args.threads})[0]
                for n in args.atoms
            ]
            rows += made
            print(json.dumps({"crystals": made, "exponent": exponent(made) if len(made) > 1 else None}), flush=True)
    else:
        for lmax in args.lmax:
            for kind in args.kind or KINDS:
                rows.append(compare(lmax, kind, args.fairchem, args.rounds, args.steps))
                print(json.dumps(rows[-1]), flush=True)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "escn_md.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].startswith("{"):
        given = json.loads(sys.argv[2])
        print(json.dumps(large(given) if "atoms" in given else measure(given)))
    else:
        main()
