"""What large structures cost: ``python -m benchmarks.published_crystal [--kind KIND] [--atoms N ...] [--threads T]``.

Slightly shaken copper crystals with all edges within 5 Å; 4 layers of 128 channels as in :mod:`benchmarks.published`,
float32, random weights, one evaluation of energy and forces. KIND is v2-6, v3-4, v3-6 (forces by a head of their own),
gradient-4 or gradient-6 (V3, forces as the gradient of the energy); the number is lmax. Every size runs in a process of
its own, after a crystal of 32 atoms to warm up. One line of JSON for each: processor and wall seconds, memory at its
peak in all; at the end the exponent b of the fit seconds = a · edges^b over all sizes, on processor time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks import process
from benchmarks.process import ROOT
from benchmarks.published import GRADIENT, L4, L6, V2, V3
from benchmarks.worker import peak_mb
from equiformer_pytorch import EquiformerV2, EquiformerV3
from equiformer_pytorch.graph.periodic import radius_graph

KINDS: dict[str, tuple[type[EquiformerV2] | type[EquiformerV3], dict[str, Any]]] = {
    "v2-6": (EquiformerV2, V2),
    "v3-4": (EquiformerV3, {**V3, **L4}),
    "v3-6": (EquiformerV3, {**V3, **L6}),
    "gradient-4": (EquiformerV3, {**V3, **L4, **GRADIENT}),
    "gradient-6": (EquiformerV3, {**V3, **L6, **GRADIENT}),
}
EDGE = 3.61
CUTOFF = 5.0
WARM_UP = 32


def crystal(atoms: int) -> dict[str, Tensor]:
    """Copper, as nearly a cube of whole cells of four atoms as there is with so many, and its edges."""
    cells = atoms // 4
    if cells < 1 or atoms % 4:
        raise SystemExit(f"atoms must be a multiple of 4, got {atoms}")
    first = max(n for n in range(1, round(cells ** (1 / 3)) + 1) if cells % n == 0)
    second = max(n for n in range(1, math.isqrt(cells // first) + 1) if cells // first % n == 0)
    counts = torch.tensor([first, second, cells // first // second])
    face = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    corners = torch.cartesian_prod(*(torch.arange(float(n)) for n in counts))
    pos = EDGE * (corners[:, None] + face).reshape(-1, 3)
    pos = pos + 0.05 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(0))
    cell = torch.diag(EDGE * counts)[None]
    edge_index, offsets = radius_graph(pos, CUTOFF, cell=cell, pbc=torch.ones(1, 3, dtype=torch.bool))
    return {
        "atomic_numbers": torch.full((atoms,), 29),
        "pos": pos,
        "cell": cell,
        "edge_index": edge_index,
        "cell_offsets": offsets,
    }


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One evaluation of one size."""
    torch.set_num_threads(job["threads"])
    cls, config = KINDS[job["kind"]]
    model = cls(**config).eval()
    model(**crystal(WARM_UP))
    inputs = crystal(job["atoms"])
    wall, processor = time.perf_counter(), time.process_time()
    with torch.no_grad():
        model(**inputs)
    return {
        "kind": job["kind"],
        "atoms": job["atoms"],
        "edges": inputs["edge_index"].shape[1],
        "processor_s": time.process_time() - processor,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peak_mb(),
    }


def exponent(rows: list[dict[str, Any]]) -> float:
    """Slope of the straight line through log seconds over log edges, least squares."""
    x = torch.tensor([math.log(row["edges"]) for row in rows])
    y = torch.tensor([math.log(row["processor_s"]) for row in rows])
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def main() -> None:
    """Measure all sizes and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), default="gradient-4")
    parser.add_argument("--atoms", type=int, nargs="+", default=[108, 216, 432, 864])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rows = []
    for atoms in args.atoms:
        job = {"kind": args.kind, "atoms": atoms, "threads": args.threads}
        rows += process.run("benchmarks.published_crystal", ROOT, job)
        print(json.dumps(rows[-1]), flush=True)
    if len(rows) > 1:
        print(json.dumps({"exponent": exponent(rows)}))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].startswith("{"):
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main()
