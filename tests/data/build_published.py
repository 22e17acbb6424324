"""Writes published.pt from checkouts of the official code; see README.md."""

from __future__ import annotations

import argparse
import warnings
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.official import official_v2, official_v3
from tests.published_cases import GRADIENT, SHIPPED, V2, V3, crystal, fill, loss_of, molecule, together

CASES = {
    "v2": V2,
    "v2_gate": {**V2, "use_gate_act": True, "use_grid_mlp": False, "use_m_share_rad": True, "norm_type": "rms_norm_sh"},
    "v2_lmax3": {
        **V2,
        "lmax_list": [3],
        "grid_resolution": None,
        "norm_type": "layer_norm",
        "share_atom_edge_embedding": True,
    },
    "v3": V3,
    "v3_lmax3": {**V3, "lmax": 3, "attn_grid_resolution_list": [10, 8], "ffn_grid_resolution_list": [10, 10]},
    "v3_silu": {
        **V3,
        "norm_type": "sep_layer_norm",
        "attn_activation": "sep_s2",
        "ffn_activation": "sep-merge_s2_swiglu",
        "use_rad_l_parametrization": False,
        "use_gate_force_head": False,
    },
    "v3_gradient": GRADIENT,
}


def projections(x: torch.Tensor) -> torch.Tensor:
    """Two numbers that any change of x shows in."""
    at = torch.arange(x.numel(), dtype=torch.float64)
    return torch.stack(((x.flatten() * (0.7 * at).cos()).sum(), (x.flatten() * (1.3 * at + 1).sin()).sum()))


def main() -> None:
    """Run the official code and write what it gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--v2", required=True)
    parser.add_argument("--v3", required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    inputs = together(molecule(), crystal())
    reference, frames = {}, [torch.empty(0)]
    for name, config in CASES.items():
        torch.manual_seed(0)
        version = name.split("_")[0]
        made = {"otf_graph": False, **config}
        model: Any = official_v2(args.v2, **made) if version == "v2" else official_v3(args.v3, **made)
        fill(model)
        # Gradient models keep what the loss needs of forces only in training; dropout is zero.
        model.train(name == "v3_gradient")
        hidden = {}
        found = model._init_edge_rot_mat

        def turned(*given, found=found):
            torch.manual_seed(0)  # the same roll in all models
            frames[0] = found(*given)
            return frames[0]

        model._init_edge_rot_mat = turned
        for index, block in enumerate(model.blocks):
            # At once: EquiformerV2 goes on with the same object.
            block.register_forward_hook(
                lambda _, __, out, i=index, h=hidden: h.update(
                    {f"block_{i}": projections(getattr(out, "embedding", out).detach())}
                )
            )
        outputs = model(
            SimpleNamespace(natoms=torch.bincount(inputs["batch"]), **{k: v.clone() for k, v in inputs.items()})
        )
        if not isinstance(outputs, dict):
            outputs = dict(zip(("energy", "forces"), outputs, strict=True))
        loss_of({str(key): x for key, x in outputs.items()}).backward()
        reference[name] = {
            "config": config,
            "hidden": hidden,
            "outputs": {k: v.detach() for k, v in outputs.items()},
            "gradients": {k: projections(p.grad) for k, p in model.named_parameters() if p.grad is not None},
        }
    torch.save({"inputs": inputs, "edge_rot_mat": frames[0].detach(), "models": reference}, SHIPPED)


if __name__ == "__main__":
    main()
