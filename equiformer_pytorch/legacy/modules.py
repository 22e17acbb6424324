"""Models of today from whole modules that 1.2 pickled: built anew from their arguments, with their weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn


def is_old(state: Mapping[str, Any], marks: str) -> bool:
    """Whether a pickled state is of 1.2, which has no submodule of this name."""
    return marks not in state["_modules"]


def adopt(model: nn.Module, state: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Make `model` what its class gives for the arguments, with the weights and flags of a state pickled by 1.2."""
    warnings.warn(
        f"this {type(model).__name__} was pickled as a whole by release 1.2, which the next release will not load: "
        "save it with its save method, or its state_dict and its arguments",
        DeprecationWarning,
        stacklevel=3,
    )
    old = nn.Module.__new__(nn.Module)
    nn.Module.__setstate__(old, dict(state))
    fresh = type(model)(**arguments)
    weights = dict(old.named_parameters())
    some = next(iter(weights.values()))
    fresh.to(device=some.device, dtype=some.dtype).load_state_dict(old.state_dict())
    for name, parameter in fresh.named_parameters():
        parameter.requires_grad_(weights[name].requires_grad)
    model.__dict__ = fresh.train(state["training"]).__dict__


def arguments_of_equiformer(state: Mapping[str, Any]) -> dict[str, Any]:
    """What an `Equiformer` of 1.2 was built with, as far as it matters, from its attributes and layers."""
    modules = state["_modules"]
    names = ("dim", "dim_in", "num_degrees", "input_degrees", "output_degrees", "valid_radius", "num_neighbors")
    names += ("attend_self", "attend_sparse_neighbors", "num_adj_degrees_embed", "max_sparse_neighbors")
    found = {name: state[name] for name in (*names, "reduce_dim_out")}
    points, edges = modules["point_features"], modules["edge_features"]
    found |= {
        "num_tokens": points.tokens and points.tokens.num_embeddings,
        "num_positions": points.positions and points.positions.num_embeddings,
        "embedding_grad_frac": points.embedding_grad_frac,
        "edge_dim": edges.edge_dim or None,
        "num_edge_tokens": edges.edges and edges.edges.num_embeddings,
        "adj_dim": 0 if edges.adjacency is None else edges.adjacency.embedding_dim,
        "radial_hidden_dim": modules["radial"].first.out_features,
        "reversible": type(modules["layers"]).__name__ == "ReversibleBlocks",
        "depth": len(modules["layers"].blocks),
        "linear_out": type(modules.get("to_out")).__name__ != "FeedForward",
    }
    convolutions = [modules["embed"].conv, *(attention.conv for attention, _ in modules["layers"].blocks)]
    complex_ones = [weight for conv in convolutions for weight in list(conv.so2.weights)[1:]]
    found["reflection_equivariant"] = any(weight.shape[0] == 1 for weight in complex_ones)
    if not found["depth"]:
        return found
    attention, feed_forward = modules["layers"].blocks[0]
    missing = found["num_degrees"] - len(attention.heads)  # the only layer may have left out degrees that none reads
    taylor = attention.linear_attn
    found |= {
        "heads": attention.heads + (1,) * missing,
        "dim_head": attention.dim_head + (1,) * missing,
        "single_headed_kv": attention.key_heads != attention.heads,
        "gate_attn_head_outputs": attention.to_gates is not None,
        "num_linear_attn_heads": 0 if taylor is None else taylor.heads,
        "linear_attn_dim_head": 8 if taylor is None else taylor.to_qkv.out_features // (3 * taylor.heads),
        "l2_dist_attention": not hasattr(attention, "to_logits"),
        "ff_include_htype_norms": feed_forward.include_htype_norms,
    }
    if not found["l2_dist_attention"]:
        found |= {
            "attn_leakyrelu_slope": attention.slope,
            "attn_hidden_dim_mult": attention.to_logits[0].shape[1],
        }
    return found
