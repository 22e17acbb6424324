"""How far EquiformerV2's sampled activations are from equivariant: ``python -m benchmarks.published_equivariance``.

A molecule of 8 atoms, random weights as at the start of training, float64: the largest relative deviation of energies
and forces over five random rotations, by the resolution of the grid. EquiformerV3's product activation for comparison.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from equiformer_pytorch import EquiformerV2, EquiformerV3

COMMON = {
    "num_layers": 4,
    "attn_hidden_channels": 16,
    "num_heads": 4,
    "attn_alpha_channels": 16,
    "attn_value_channels": 8,
    "ffn_hidden_channels": 32,
    "edge_channels": 32,
    "max_radius": 5.0,
}


def rotations(count: int) -> list[Tensor]:
    """Random rotation matrices."""
    found = []
    for seed in range(count):
        q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        found.append(q * torch.linalg.det(q))
    return found


def deviation(model: nn.Module) -> dict[str, float]:
    """Largest relative deviation of energy and forces."""
    generator = torch.Generator().manual_seed(0)
    pos = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3) * 1.5
    pos = pos + 0.2 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    ends = torch.tensor([[j, i] for i in range(8) for j in range(8) if i != j]).T
    inputs = {"atomic_numbers": torch.tensor([6, 1, 8, 7, 6, 1, 1, 16]), "edge_index": ends}
    worst = {"energy": 0.0, "forces": 0.0}
    with torch.no_grad():
        before = model(**inputs, pos=pos)
        for turn in rotations(5):
            after = model(**inputs, pos=pos @ turn.T)
            for name, wanted in (("energy", before["energy"]), ("forces", before["forces"] @ turn.T)):
                error = (after[name] - wanted).abs().max() / wanted.abs().max()
                worst[name] = max(worst[name], float(error))
    return worst


def main() -> None:
    """Print one line per model and grid."""
    for lmax, grids in ((4, (10, 14, 18, 24, 32, 48, 64)), (6, (14, 18, 24, 32, 48, 64, 80))):
        for grid in grids:
            torch.manual_seed(0)
            model = EquiformerV2(
                **COMMON, sphere_channels=32, lmax_list=[lmax], mmax_list=[2], norm_type="layer_norm_sh",
                grid_resolution=grid, use_grid_mlp=True, weight_init="uniform",
            )  # fmt: skip
            print(json.dumps({"model": "V2", "lmax": lmax, "grid": grid, **deviation(model.double().eval())}))
        torch.manual_seed(0)
        grid = [3 * lmax + 2, 3 * lmax + 2]
        model = EquiformerV3(
            **COMMON, num_channels=32, lmax=lmax, attn_grid_resolution_list=grid, ffn_grid_resolution_list=grid
        )
        print(json.dumps({"model": "V3", "lmax": lmax, "grid": grid, **deviation(model.double().eval())}))


if __name__ == "__main__":
    main()
