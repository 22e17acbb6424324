"""Many configurations beside the official code: ``python -m benchmarks.published_sweep --v2 DIR --v3 DIR``.

DIR are checkouts of atomicarchitects/equiformer_v2 and equiformer_v3 (see :mod:`benchmarks.official`; needs e3nn).
Two layers, a molecule and a periodic crystal, float64, same weights, inputs and edge frames: the largest deviation of
outputs and of parameter gradients, each as a share of its largest entry. One line for each configuration, the worst at
the end. Configurations on which the official code fails are left out; docs/published_models.md lists them.
"""

from __future__ import annotations

import argparse
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.official import official_v2, official_v3
from equiformer_pytorch import EquiformerV2, EquiformerV3
from tests.published_cases import GRADIENT, V2, V3, crystal, fill, loss_of, molecule, relative, together

# What counts as zero beside it: gradients that vanish on paper, as those of a shift that softmax takes out.
FLOOR = 1e-6


def degree(lmax: int, mmax: int, latitudes: int, longitudes: int) -> dict[str, Any]:
    """EquiformerV3 of another degree, on grids that resolve it."""
    return {
        "lmax": lmax,
        "mmax": mmax,
        "attn_grid_resolution_list": [latitudes, longitudes],
        "ffn_grid_resolution_list": [latitudes, latitudes],
    }


L1, L3, L4, L5, L6 = (
    {**degree(1, 1, 4, 4), "regress_stress": False},  # whose head needs degree 2
    degree(3, 1, 10, 8),
    degree(4, 2, 14, 8),
    degree(5, 3, 16, 10),
    degree(6, 2, 20, 8),
)
OF_V2: list[dict[str, Any]] = [
    {},
    *({"lmax_list": [l], "mmax_list": [m], "grid_resolution": 18} for l, m in ((1, 1), (3, 2), (4, 1), (5, 3), (6, 2))),
    {"mmax_list": [0]},
    {"grid_resolution": None},
    {"grid_resolution": None, "lmax_list": [3], "mmax_list": [2]},
    {"norm_type": "layer_norm"},
    {"norm_type": "rms_norm_sh"},
    {"use_grid_mlp": False},
    {"use_sep_s2_act": False},
    {"use_grid_mlp": False, "use_sep_s2_act": False},
    {"use_gate_act": True},
    {"use_gate_act": True, "use_grid_mlp": False, "lmax_list": [3]},
    {"use_attn_renorm": False},
    {"use_atom_edge_embedding": False},
    {"share_atom_edge_embedding": True},
    {"use_m_share_rad": True},
    {"use_m_share_rad": True, "lmax_list": [4], "grid_resolution": 14},
    {"weight_init": "normal"},
    {"regress_forces": False},
    {"attn_hidden_channels": 12, "sphere_channels": 10, "ffn_hidden_channels": 6, "attn_value_channels": 3},
]
SAMPLED = [
    "s2",
    "sep_s2",
    "s2_swiglu",
    "sep_s2_swiglu",
    "sep-merge_s2_swiglu",
    "sep-merge_s2_swiglu_mem",
    "sep_s2_square",
    "sep-merge_gates2_swiglu",
    "sep-merge_gates2_swiglu_mem",
]
OF_V3: list[dict[str, Any]] = [
    {},
    *(L1, L3, L4, L5, L6),
    {"mmax": 0},
    {"attn_grid_resolution_list": None, "ffn_grid_resolution_list": None},
    *({"attn_activation": name} for name in ("gate", *SAMPLED)),
    *({"attn_activation": name, **degree(3, 2, 10, 8)} for name in ("gate", "s2", "sep_s2")),
    *({"ffn_activation": name} for name in SAMPLED),
    *({"ffn_activation": name, "use_grid_mlp": False} for name in ("gate", "s2", "sep-merge_gates2_swiglu")),
    *(
        {"norm_type": name}
        for name in ("equivariant_layer_norm", "sep_layer_norm", "merge_layer_norm_attn_rms_norm", "merge_rms_norm")
    ),
    {"use_envelope": False},
    {"softcap": 2.0},
    {"attn_eps": 1e-2},
    {"use_attn_renorm": False},
    {"use_add_merge": True},
    {"use_add_merge": True, **L3},
    {"use_rad_l_parametrization": False},
    {"use_rad_l_parametrization": False, **L3},
    {"use_gate_force_head": False},
    {"use_atom_edge_embedding": False},
    {"alpha_drop": 1e-30},  # the other attention function; drops nothing
    {"regress_stress": False},
    {"regress_forces": False, "regress_stress": False},
    {"gradient_checkpointing_block_list": [1, 0]},
    {"avg_num_nodes": 3.0, "avg_degree": 7.0},
    {"max_radius": 6.0},
]
OF_GRADIENT: list[dict[str, Any]] = [
    {},
    *(L1, L4, L6),
    {"attn_activation": "sep-merge_gates2_swiglu_mem"},
    {"attn_activation": "sep_s2_square", **degree(3, 2, 10, 8)},
    {"attn_activation": "gate", "ffn_activation": "gate", "use_grid_mlp": False},
    {"norm_type": "sep_layer_norm"},
    {"use_envelope": False},
    {"use_add_merge": True},
    {"use_rad_l_parametrization": False},
    {"regress_stress": False},
    {"gradient_checkpointing_block_list": [1, 1]},
]


def deviation(official: nn.Module, ours: nn.Module, gradient: bool) -> tuple[float, float, str]:
    """Of outputs and of parameter gradients, and the parameter where the latter is largest."""
    inputs = together(molecule(), crystal())
    for model in (official, ours):
        fill(model)
    frames: list[Tensor] = []
    found = official._init_edge_rot_mat  # pyright: ignore[reportCallIssue]

    def recorded(*given: Any) -> Tensor:
        frames.append(found(*given))  # pyright: ignore[reportCallIssue]
        return frames[-1]

    official._init_edge_rot_mat = recorded  # pyright: ignore[reportArgumentType]  (a method, to nn.Module unknown)
    # Gradient models keep what the loss needs of forces only in training; dropout is zero.
    official.train(gradient)
    ours.eval()
    theirs: Any = official(
        SimpleNamespace(natoms=torch.bincount(inputs["batch"]), **{name: x.clone() for name, x in inputs.items()})
    )
    if not isinstance(theirs, dict):
        theirs = theirs if isinstance(theirs, tuple) else (theirs,)
        names: tuple[str, ...] = ("energy", "forces")
        theirs = dict(zip(names, theirs, strict=False))
    outputs = ours(**inputs, edge_frames=frames[0].detach())
    if outputs.keys() != theirs.keys():
        raise SystemExit(f"outputs are {sorted(outputs)} here, {sorted(theirs)} there")
    worst = max(relative(outputs[name], theirs[name]) for name in theirs)
    loss_of(theirs).backward()
    loss_of(outputs).backward()
    wanted, largest, where = dict(official.named_parameters()), 0.0, ""
    for name, parameter in ours.named_parameters():
        slope, reference = parameter.grad, wanted[name].grad
        if slope is None:
            raise SystemExit(f"{name} has no gradient")
        reference = torch.zeros_like(slope) if reference is None else reference
        off = float((slope - reference).abs().max() / reference.abs().max().clamp(min=FLOOR))
        if off >= largest:
            largest, where = off, name
    return worst, largest, where


def main() -> None:
    """Run all configurations and print the deviations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--v2", help="checkout of atomicarchitects/equiformer_v2")
    parser.add_argument("--v3", help="checkout of atomicarchitects/equiformer_v3")
    parser.add_argument("--only", choices=["v2", "v3", "gradient"], action="append")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    kinds = {
        "v2": (official_v2, args.v2, EquiformerV2, V2, OF_V2),
        "v3": (official_v3, args.v3, EquiformerV3, V3, OF_V3),
        "gradient": (official_v3, args.v3, EquiformerV3, GRADIENT, OF_GRADIENT),
    }
    worst: dict[str, tuple[float, float]] = {}
    for kind in args.only or kinds:
        make, checkout, cls, base, changes = kinds[kind]
        if checkout is None:
            continue
        for changed in changes:
            config = {**base, **changed}
            official = make(checkout, otf_graph=False, **config)
            of_outputs, of_gradients, where = deviation(official, cls(**config).double(), kind == "gradient")
            print(f"{of_outputs:.1e} {of_gradients:.1e} {kind} {changed} ({where})", flush=True)
            before = worst.get(kind, (0.0, 0.0))
            worst[kind] = max(before[0], of_outputs), max(before[1], of_gradients)
    for kind, (of_outputs, of_gradients) in worst.items():
        count = len(kinds[kind][4])
        print(f"{kind}: {count} configurations, outputs within {of_outputs:.1e}, gradients within {of_gradients:.1e}")


if __name__ == "__main__":
    main()
