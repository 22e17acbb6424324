"""What tests of the published models share: small models, structures, reference numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equiformer_pytorch import EquiformerV2, EquiformerV3

# Reference numbers beside the repository, where there are some; and the small ones that it ships.
PARITY = Path(__file__).resolve().parent.parent.parent / "shared" / "parity"
SHIPPED = Path(__file__).resolve().parent / "data" / "published.pt"

V2: dict[str, Any] = {
    "max_num_elements": 20,
    "max_radius": 4.0,
    "num_layers": 2,
    "sphere_channels": 6,
    "attn_hidden_channels": 5,
    "num_heads": 2,
    "attn_alpha_channels": 4,
    "attn_value_channels": 3,
    "ffn_hidden_channels": 7,
    "lmax_list": [2],
    "mmax_list": [2],
    "edge_channels": 4,
    "norm_type": "layer_norm_sh",
    "grid_resolution": 8,
    "use_grid_mlp": True,
    "alpha_drop": 0.0,
    "drop_path_rate": 0.0,
    "weight_init": "uniform",
}
V3: dict[str, Any] = {
    "max_num_elements": 20,
    "max_radius": 4.0,
    "num_radial_basis": 8,
    "num_layers": 2,
    "num_channels": 6,
    "attn_hidden_channels": 5,
    "num_heads": 2,
    "attn_alpha_channels": 4,
    "attn_value_channels": 3,
    "ffn_hidden_channels": 7,
    "lmax": 2,
    "mmax": 2,
    "attn_grid_resolution_list": [8, 8],
    "ffn_grid_resolution_list": [8, 8],
    "edge_channels": 4,
    "attn_weights_drop": 0.0,
    "drop_path_rate": 0.0,
    "regress_stress": True,
}
GRADIENT = {**V3, "direct_prediction": False, "avg_num_nodes": 1.0}


def fill(model: nn.Module) -> None:
    """Weights that depend on nothing but their names and shapes, so that no file need hold them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(filling(name, parameter.shape))


def filling(name: str, shape: Sequence[int]) -> Tensor:
    """The weight of this name and shape."""
    at = torch.arange(math.prod(shape), dtype=torch.float64) * 1.37 + sum(name.encode()) % 97
    offset = 1.0 if len(shape) == 1 and name.endswith(("weight", "affine_weight")) else 0.0
    return offset + 0.5 * (at * at * 0.11).sin().view(*shape)


def build(kind: str = "v2", **changes: Any) -> EquiformerV2 | EquiformerV3:
    """A small model in float64 that is alive in all its parts."""
    cls, config = {"v2": (EquiformerV2, V2), "v3": (EquiformerV3, V3), "gradient": (EquiformerV3, GRADIENT)}[kind]
    model = cls(**{**config, **changes}).double().eval()
    fill(model)
    return model


def molecule(atoms: int = 6, seed: int = 0, spread: float = 1.3) -> dict[str, Tensor]:
    """Atoms that are not too close, in a large box, every pair joined."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)[:atoms]
    pos = spread * corners + 0.2 * torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    ends = torch.tensor([[j, i] for i in range(atoms) for j in range(atoms) if i != j]).T.reshape(2, -1)
    near = (pos[ends[0]] - pos[ends[1]]).norm(dim=1) < 4.0
    return {
        "atomic_numbers": torch.randint(1, 20, (atoms,), generator=generator),
        "pos": pos,
        "cell": 30 * torch.eye(3, dtype=torch.float64)[None],
        "batch": torch.zeros(atoms, dtype=torch.long),
        "edge_index": ends[:, near],
        "cell_offsets": torch.zeros(int(near.sum()), 3, dtype=torch.float64),
    }


def crystal(repeat: int = 1, cutoff: float = 3.0) -> dict[str, Tensor]:
    """A slightly shaken rock salt cell, repeated along its first vector, with all edges within the cutoff."""
    a = 4.2
    face = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64) * a / 2
    one = torch.cat((face, face + torch.tensor([a / 2, 0, 0], dtype=torch.float64)))
    one = one + 0.1 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = torch.tensor([a, 0, 0], dtype=torch.float64)
    pos = torch.cat([one + k * along for k in range(repeat)])
    cell = torch.diag(torch.tensor([repeat * a, a, a], dtype=torch.float64))
    shifts = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3)
    images = pos[:, None] + shifts @ cell
    distance = (images[None] - pos[:, None, None]).norm(dim=-1)
    receivers, senders, shift = ((distance < cutoff) & (distance > 1e-6)).nonzero().T
    return {
        "atomic_numbers": torch.tensor([11] * 4 + [17] * 4).repeat(repeat),
        "pos": pos,
        "cell": cell[None],
        "batch": torch.zeros(len(pos), dtype=torch.long),
        "edge_index": torch.stack((senders, receivers)),
        "cell_offsets": shifts[shift],
    }


def together(*structures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Several structures as one batch."""
    sizes = [len(s["pos"]) for s in structures]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    joined = {
        name: torch.cat([s[name] for s in structures]) for name in ("atomic_numbers", "pos", "cell", "cell_offsets")
    }
    joined["edge_index"] = torch.cat([s["edge_index"] + k for s, k in zip(structures, starts, strict=True)], dim=1)
    joined["batch"] = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return joined


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation as a share of the largest entry."""
    if not expected.numel():
        return 0.0
    actual, expected = actual.detach(), expected.detach()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def loss_of(outputs: dict[str, Tensor]) -> Tensor:
    """The loss of the reference files."""
    return outputs["energy"].sum() + sum(outputs[k].square().sum() for k in ("forces", "stress") if k in outputs)
