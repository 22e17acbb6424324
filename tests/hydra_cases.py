"""Small models of fairchem 1's `hydra`, with backbones and heads of EquiformerV2, as its trainer configures them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiformer_pytorch.atoms import Potential, radius_graph
from tests.published_cases import V2, crystal, filling, together

SHIPPED = Path(__file__).resolve().parent / "data" / "hydra.pt"

# What fairchem's backbone has beside the official arguments; `regress_forces` says nothing there.
BACKBONE: dict[str, Any] = {
    **V2,
    "model": "equiformer_v2_backbone",
    "use_pbc": True,
    "use_pbc_single": False,
    "otf_graph": True,
    "enforce_max_neighbors_strictly": False,
    "max_neighbors": 10,
    "avg_num_nodes": 7.5,
    "avg_degree": 14.25,
    "regress_forces": False,
    "activation_checkpoint": False,
}
DENS = "fairchem.core.models.equiformer_v2.equiformer_v2_dens."
ENERGY = {"module": "equiformer_v2_energy_head"}
FORCES = {"module": "equiformer_v2_force_head"}
STRESS = {"module": "rank2_symmetric_head", "output_name": "stress", "use_source_target_embedding": True}
PARTS = {"stress_isotropic": {"irrep_dim": 0}, "stress_anisotropic": {"irrep_dim": 2}}


def _model(backbone: dict[str, Any], **heads: dict[str, Any]) -> dict[str, Any]:
    return {"name": "hydra", "pass_through_head_outputs": True, "otf_graph": True, "backbone": backbone, "heads": heads}


MODELS: dict[str, dict[str, Any]] = {
    # As OMat24's.
    "decomposed": _model(BACKBONE, energy=ENERGY, forces=FORCES, stress={**STRESS, "decompose": True}),
    "whole": _model(
        {**BACKBONE, "lmax_list": [3], "norm_type": "rms_norm_sh", "enforce_max_neighbors_strictly": True},
        energy={"module": "equiformerV2_scalar_head"},
        forces={"module": "equiformerV2_vector_head"},
        stress={"module": "rank2_symmetric_head", "use_source_target_embedding": False},
    ),
    "edges": _model(
        {**BACKBONE, "use_gate_act": True, "use_grid_mlp": False, "norm_type": "layer_norm", "max_neighbors": 500},
        energy=ENERGY,
        forces=FORCES,
        stress={
            **STRESS,
            "decompose": True,
            "edge_level_mlp": True,
            "num_mlp_layers": 3,
            "extensive": True,
            "avg_num_nodes": 5.0,
        },
    ),
    # As OMat24's models that were trained with denoising (DeNS).
    "denoising": _model(
        {
            **BACKBONE,
            "model": f"{DENS}EqV2DeNSBackbone",
            "use_force_encoding": True,
            "use_noise_schedule_sigma_encoding": True,
        },
        energy={"module": f"{DENS}DeNSScalarHead", "use_denoising": True},
        forces={"module": f"{DENS}DeNSVectorHead"},
        stress={**STRESS, "module": f"{DENS}DeNSRank2Head", "decompose": True, "use_denoising": False},
    ),
    "energy": _model({**BACKBONE, "load_energy_lin_ref": True}, energy=ENERGY),
}
NORMALIZERS: dict[str, dict[str, tuple[float, float]]] = {
    "decomposed": {"forces": (0.0, 0.43), "stress_isotropic": (0.12, 1.7), "stress_anisotropic": (-0.02, 0.6)},
    "whole": {"energy": (0.5, 3.1), "forces": (0.0, 2.2), "stress": (0.07, 0.35)},
    "edges": {"stress_isotropic": (0.12, 1.7), "stress_anisotropic": (0.03, 0.6), "stress": (0.01, 1.4)},
    "denoising": {"forces": (0.0, 0.43), "denoising_pos_target": (0.0, 0.1)},
    "energy": {},
}


def outputs_of(name: str) -> dict[str, Any]:
    """What the trainer is told of the outputs of a model."""
    heads = MODELS[name]["heads"]
    outputs: dict[str, Any] = {"energy": {"level": "system", "property": "energy"}}
    if "forces" in heads:
        outputs["forces"] = {"level": "atom", "property": "forces"}
    if "stress" in heads:
        parts = {"decomposition": {k: {**v} for k, v in PARTS.items()}} if heads["stress"].get("decompose") else {}
        outputs["stress"] = {"level": "system", "property": "stress", **parts}
    return outputs


def references(name: str) -> Tensor | None:
    """Energies of elements, where a model has some."""
    return None if name == "energy" else torch.arange(119, dtype=torch.float64) * -0.31


def structures() -> dict[str, Tensor]:
    """Two crystals without edges: one nearly perfect, whose distances agree to 1e-3, and one that is shaken; turned,
    since fairchem loses digits of edges near the y axis."""
    shaken, perfect = crystal(), crystal()
    a = 4.2
    face = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64) * a / 2
    pos = torch.cat((face, face + torch.tensor([a / 2, 0, 0], dtype=torch.float64)))
    perfect["pos"] = pos + 2e-4 * torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    both = together(perfect, shaken)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.4, -0.7], [-0.4, 0, 0.3], [0.7, -0.3, 0]], dtype=torch.float64))
    return {
        "atomic_numbers": both["atomic_numbers"],
        "pos": both["pos"] @ turn,
        "cell": both["cell"] @ turn,
        "batch": both["batch"],
    }


def own_edges(model: Potential, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that the model itself would look for."""
    edge_index, offsets = radius_graph(
        inputs["pos"],
        model.cutoff,
        batch=inputs["batch"],
        cell=inputs["cell"],
        max_neighbors=model.max_neighbors,
        strict_neighbors=model.strict_neighbors,
    )
    return {"edge_index": edge_index, "cell_offsets": offsets}


def shipped() -> dict[str, dict[str, Any]]:
    """What fairchem gives for each model."""
    return torch.load(SHIPPED, weights_only=True)


def checkpoint(name: str, known: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A file of a model as fairchem's trainer writes it; `known` is what is shipped of it."""
    weights = {prefix + key: filling(key, shape) for key, (shape, _) in known["parameters"].items()}
    weights |= {prefix + key: torch.zeros(1) for key in known["constants"]}
    energies = references(name)
    return {
        "state_dict": weights,
        "normalizers": {
            key: {"mean": torch.tensor(mean, dtype=torch.float64), "rmsd": torch.tensor(rmsd, dtype=torch.float64)}
            for key, (mean, rmsd) in NORMALIZERS[name].items()
        },
        "elementrefs": {} if energies is None else {"energy": {"element_references": energies}},
        "config": {
            "task": {},
            "trainer": "ocp",
            "model": MODELS[name],
            "outputs": outputs_of(name),
            "optim": {"ema_decay": 0.999},
            "cmd": {"version": "1.10.0", "seed": None},
            "dataset": {"format": "ase_db", "transforms": {}},
        },
        "val_metrics": None,
        "amp": None,
    }
