"""A model's constructor arguments from its published weights and constants."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equiformer_pytorch.published.sphere_grid import grid_matrices


def layers(tensors: Mapping[str, Tensor]) -> int:
    """How many blocks there are."""
    found = {int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")}
    if not found:
        raise ValueError("the weights have no blocks.…: they are not of a published model; or pass config")
    return max(found) + 1


def need(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor, or a ValueError that says it was needed."""
    if name not in tensors:
        raise ValueError(f"the configuration cannot be inferred, since {name} is missing; pass config")
    return tensors[name]


def attention_sizes(tensors: Mapping[str, Tensor], second: str, orders: str) -> dict[str, Any]:
    """What both models' attentions show; `second` names the second SO(2) map, `orders` its part of m > 0."""
    projection = need(tensors, "blocks.0.ga.proj.weight")
    heads, alpha = need(tensors, "blocks.0.ga.alpha_dot").shape
    degrees = projection.shape[0]
    prefix = f"blocks.0.ga.{second}.{orders}."
    return {
        "lmax": degrees - 1,
        "mmax": len({name for name in tensors if name.startswith(prefix)}),
        "num_heads": heads,
        "attn_alpha_channels": alpha,
        "attn_value_channels": projection.shape[2] // heads,
        "attn_hidden_channels": need(tensors, f"blocks.0.ga.{second}.fc_m0.weight").shape[1] // degrees,
    }


def common(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What both models show in the same places."""
    offset = need(tensors, "distance_expansion.offset")
    return {
        "max_radius": round(float(offset[-1]), 6),
        "max_num_elements": need(tensors, "sphere_embedding.weight").shape[0],
        "num_layers": layers(tensors),
        "edge_channels": need(tensors, "edge_degree_embedding.rad_func.net.0.weight").shape[0],
        "ffn_hidden_channels": need(tensors, "blocks.0.ffn.so3_linear_2.weight").shape[2],
        "use_attn_renorm": "blocks.0.ga.alpha_norm.weight" in tensors,
        "use_grid_mlp": any(name.startswith("blocks.0.ffn.grid_mlp.") for name in tensors),
        "regress_forces": any(name.startswith("force_block.") for name in tensors),
    }


def warn_untraced(names: str) -> None:
    """That some arguments leave no trace in weights."""
    warnings.warn(
        f"the checkpoint has no configuration; it was inferred from the weights. What leaves no trace there has its"
        f" default: {names}. Pass config to set it.",
        stacklevel=4,
    )


def infer_v2(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of EquiformerV2 that `tensors`, its weights by name, tell; others have their defaults."""
    sizes = attention_sizes(tensors, "so2_conv_2", "so2_m_conv")
    lmax, hidden = sizes.pop("lmax"), sizes["attn_hidden_channels"]
    mmax = sizes.pop("mmax")
    found = {**common(tensors), **sizes, "lmax_list": [lmax], "mmax_list": [mmax]}
    found["sphere_channels"] = need(tensors, "sphere_embedding.weight").shape[1]
    found["share_atom_edge_embedding"] = "source_embedding.weight" in tensors
    own = "blocks.0.ga.source_embedding.weight" in tensors
    found["use_atom_edge_embedding"] = own or found["share_atom_edge_embedding"]
    found["use_m_share_rad"] = "blocks.0.ga.rad_func.net.0.weight" in tensors
    if "norm.norm_l0.weight" in tensors:
        found["norm_type"] = "layer_norm_sh"
    else:
        found["norm_type"] = "rms_norm_sh" if "norm.balance_degree_weight" in tensors else "layer_norm"
    extra = need(tensors, "blocks.0.ga.so2_conv_1.fc_m0.weight").shape[0] - (lmax + 1) * hidden
    extra -= found["num_heads"] * found["attn_alpha_channels"]
    found["use_sep_s2_act"] = extra > 0
    found["use_gate_act"] = extra == lmax * hidden and (lmax > 1 or "blocks.0.ga.gate_act.expand_index" in tensors)
    grid = need(tensors, f"SO3_grid.{lmax}.{mmax}.to_grid_mat")
    found["grid_resolution"] = grid.shape[0] if grid.shape[0] == grid.shape[1] else None
    found["stress_head"] = _stress_head_v2(tensors, found["sphere_channels"])
    of_stress = "" if found["stress_head"] is None else ", edge_level_mlp, extensive and avg_num_nodes of stress_head"
    warn_untraced(f"max_neighbors, enforce_max_neighbors_strictly, avg_num_nodes, avg_degree, dropout{of_stress}")
    return found


def _stress_head_v2(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Any] | None:
    prefix = "stress_block.block."
    networks = {name.split(".")[2] for name in tensors if name.startswith(prefix)}
    if not networks:
        return None
    name = sorted(networks)[0]
    return {
        "decompose": "irrep2_MLP" in networks,
        "num_mlp_layers": sum(each.startswith(f"{prefix}{name}.") and each.endswith("weight") for each in tensors),
        "use_source_target_embedding": need(tensors, f"{prefix}{name}.0.weight").shape[1] > channels,
    }


def infer_v3(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of EquiformerV3 that `tensors`, its weights by name, tell; others have their defaults."""
    sizes = attention_sizes(tensors, "so2_linear_2", "so2_m_linear")
    lmax, hidden = sizes["lmax"], sizes["attn_hidden_channels"]
    found = {**common(tensors), **sizes}
    found["num_channels"] = channels = need(tensors, "sphere_embedding.weight").shape[1]
    found["num_radial_basis"] = need(tensors, "distance_expansion.offset").shape[0]
    found["use_atom_edge_embedding"] = "blocks.0.ga.source_embedding.weight" in tensors
    found["direct_prediction"] = found["regress_forces"] or any(n.startswith("stress_block.") for n in tensors)
    found["regress_stress"] = any(name.startswith("stress_block.") for name in tensors)
    found["regress_forces"] = found["regress_forces"] or not found["direct_prediction"]
    first = need(tensors, "blocks.0.ga.so2_linear_1.fc_m0.weight")
    found["use_add_merge"] = first.shape[1] == (lmax + 1) * channels
    radial = max(int(n.split(".")[5]) for n in tensors if n.startswith("blocks.0.ga.rad_func.net."))
    entries = need(tensors, f"blocks.0.ga.rad_func.net.{radial}.weight").shape[0] // (2 * channels)
    found["use_rad_l_parametrization"] = entries == lmax + 1
    if "norm.norm_l0.weight" in tensors:
        found["norm_type"] = "sep_layer_norm"
    elif "norm.affine_bias" not in tensors:
        found["norm_type"] = "merge_rms_norm"
    elif "blocks.0.ga.alpha_norm.bias" not in tensors and found["use_attn_renorm"]:
        found["norm_type"] = "merge_layer_norm_attn_rms_norm"
    else:
        merged = "norm.balance_degree_weight" in tensors
        found["norm_type"] = "merge_layer_norm" if merged else "equivariant_layer_norm"
    alpha = found["num_heads"] * found["attn_alpha_channels"]
    found["attn_activation"] = _activation_v3("attn", first.shape[0] - alpha, hidden, lmax)
    found["ffn_activation"] = _feed_forward_v3(tensors, found["use_grid_mlp"], found["ffn_hidden_channels"], lmax)
    found["attn_grid_resolution_list"] = _resolution(tensors, "blocks.0.ga.act", lmax, sizes["mmax"], True)
    of_samples = "blocks.0.ffn" if found["use_grid_mlp"] else "blocks.0.ffn.act"
    found["ffn_grid_resolution_list"] = _resolution(tensors, of_samples, lmax, lmax, False)
    if "force_block.so2_linear_1.fc_m0.weight" in tensors:
        of_force = need(tensors, "force_block.so2_linear_1.fc_m0.weight").shape[0] - alpha - (lmax + 1) * hidden
        found["use_gate_force_head"] = of_force == lmax * hidden
    warn_untraced(
        "avg_num_nodes, avg_degree, use_envelope, softcap, attn_eps, max_neighbors, dropout, whether forces"
        " and stress come from the gradient"
    )
    return found


def _activation_v3(where: str, rows: int, hidden: int, lmax: int) -> str:
    """From the number of rows beside those of the attention logits."""
    components = (lmax + 1) * hidden
    known = {
        components: "s2",
        components + hidden: "sep_s2",
        components + lmax * hidden: "gate",
        2 * components: "s2_swiglu",
        2 * components + 3 * hidden: "sep-merge_gates2_swiglu",
    }
    if rows not in known:
        raise ValueError(f"{where}_activation cannot be inferred: several have weights of this shape; pass config")
    return known[rows]


def _feed_forward_v3(tensors: Mapping[str, Tensor], grid: bool, hidden: int, lmax: int) -> str:
    prefix = "blocks.0.ffn."
    if grid and f"{prefix}grid_mlp.gating_linear.weight" in tensors:
        return "sep-merge_gates2_swiglu"
    if grid and f"{prefix}grid_mlp.0.weight" in tensors:
        return "sep_s2" if f"{prefix}scalar_mlp.0.weight" in tensors else "s2"
    if grid and not any(name.startswith(f"{prefix}scalar_mlp.") for name in tensors):
        return "s2_swiglu"
    if not grid:
        gating = tensors.get(f"{prefix}gating_linear.weight")
        known = {0: "s2", hidden: "sep_s2", lmax * hidden: "gate", 3 * hidden: "sep-merge_gates2_swiglu"}
        widened = need(tensors, f"{prefix}so3_linear_1.weight").shape[1] > hidden
        if widened:
            return "sep-merge_gates2_swiglu"
        return known.get(0 if gating is None else gating.shape[0], "gate")
    raise ValueError("ffn_activation cannot be inferred: several have weights of this shape; pass config")


def _resolution(tensors: Mapping[str, Tensor], where: str, lmax: int, mmax: int, order_major: bool) -> list[int] | None:
    """Latitudes and longitudes whose matrix is the one kept beside the weights."""
    matrix = tensors.get(f"{where}.so3_grid.to_grid_mat")
    if matrix is None:
        return None
    samples = matrix.shape[0]
    for latitudes in range(2 * (lmax + 1), samples + 1, 2):
        if samples % latitudes == 0:
            longitudes = samples // latitudes
            made, _ = grid_matrices(lmax, mmax, latitudes, longitudes, order_major, False)
            if torch.allclose(made, matrix.double(), atol=1e-4):
                return [latitudes, longitudes]
    raise ValueError(f"{where}.so3_grid.to_grid_mat is not of a known grid; pass config")
