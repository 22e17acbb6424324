"""The cases of golden.pt.xz: kinds of models, their arguments, those of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equiformer_pytorch import Equiformer, EquiformerPotential
from equiformer_pytorch.atoms import radius_graph
from tests import published_cases
from tests.atoms import potentials
from tests.golden import CLASSES, Model, rounded
from tests.models import KINDS, SMALL, example, shake
from tests.published_cases import GRADIENT, V2, V3

Inputs = dict[str, Any]
Case = tuple[str, dict[str, Any], Inputs]
"""Kind of model, its arguments, those of a call."""

MLP = {"l2_dist_attention": False}
UNEVEN = {
    "dim": (4, 6, 3, 5),
    "dim_in": (3,),
    "num_degrees": 4,
    "output_degrees": 4,
    "heads": (2, 1, 4, 3),
    "dim_head": (3, 2, 1, 4),
    "depth": 2,
}
HIGH = {"dim": (3, 4, 2, 3, 1, 2), "num_degrees": 6, "output_degrees": 6, "depth": 1, "dim_head": 2}
LINEAR = {"num_linear_attn_heads": 2, "linear_attn_dim_head": 3}
WIDE = {"dim": 64, "dim_in": (4,), "heads": 2, "dim_head": 16, "depth": 1, "num_degrees": 2, "output_degrees": 2}
TINY = {"dim": (3, 2, 2), "dim_in": (2,), "dim_head": 2, "radial_hidden_dim": 4}

# Models that are called with batch 2 of 7 random points, beside those of tests/models.py.
DENSE: dict[str, dict[str, Any]] = {
    "one-degree": {"dim": 7, "num_degrees": 1, "output_degrees": 1},
    "two-degrees-mlp": {"dim": (4, 6), "num_degrees": 2, "output_degrees": 2, "depth": 3, **MLP},
    "uneven-l2": UNEVEN,
    "uneven-mlp": {**UNEVEN, **MLP},
    "uneven-single-kv": {**UNEVEN, "single_headed_kv": True, "attend_self": False},
    "uneven-mlp-single-kv": {**UNEVEN, **MLP, "single_headed_kv": True, **LINEAR},
    "uneven-reflection-norms": {**UNEVEN, "reflection_equivariant": True, "ff_include_htype_norms": True},
    "uneven-input": {**UNEVEN, "input_degrees": 3, "dim_in": (5, 2, 3)},
    "more-degrees-in-than-inside": {"input_degrees": 4, "dim_in": (3, 2, 1, 2)},
    "five-degrees": {"dim": (4, 3, 3, 2, 2), "num_degrees": 5, "output_degrees": 5, "depth": 1},
    "six-degrees-l2": HIGH,
    "six-degrees-mlp": {**HIGH, **MLP},
    "six-degrees-reflection": {**HIGH, "reflection_equivariant": True},
    "positions": {"num_positions": 9},
    "tokens": {"num_tokens": 6, "num_positions": 9, **MLP},
    "invariants-out": {"output_degrees": 1},
    "invariants-out-mlp": {"output_degrees": 1, "ff_include_htype_norms": True, **MLP},
    "depth-0": {"depth": 0},
    "depth-1": {"depth": 1, "output_degrees": 2},
    "reduced-linear": {"reduce_dim_out": True},
    "reduced-mlp": {"reduce_dim_out": True, "linear_out": False, "output_degrees": 1, **MLP},
    "no-gates": {"gate_attn_head_outputs": False},
    "no-self": {"attend_self": False, **LINEAR},
    "no-self-mlp": {"attend_self": False, "gate_attn_head_outputs": False, **MLP},
    "mlp-hidden": {"attn_leakyrelu_slope": 0.3, "attn_hidden_dim_mult": 2, **MLP},
    "radius": {"valid_radius": 2.0},
    "radius-mlp": {"valid_radius": 2.0, **MLP},
    "radius-nearest-mlp": {"valid_radius": 2.5, "num_neighbors": 3, **MLP},
    "adjacency-alone": {"attend_sparse_neighbors": True, "num_neighbors": 0},
    "adjacency-embedded": {"num_adj_degrees_embed": 2, "adj_dim": 3, **MLP},
    "adjacency-edges": {**KINDS["l2-adjacency"], "edge_dim": 3, "num_edge_tokens": 4, **MLP},
    "reversible-uneven": {**UNEVEN, "reversible": True, "depth": 3},
    "reversible-everything": {**KINDS["l2-edges"], **LINEAR, "reversible": True, "valid_radius": 2.0, **MLP},
    "reversible-out": {"reversible": True, "depth": 3, "output_degrees": 1, "reduce_dim_out": True},
    "wide-l2": WIDE,
    "wide-mlp": {**WIDE, **MLP, "dim": (64, 8)},
    # Small enough to be kept whole.
    "tiny-l2": {**TINY, "num_neighbors": 3},
    "tiny-mlp": {**TINY, **MLP, **LINEAR, "valid_radius": 2.5},
    "tiny-reversible": {**TINY, "reversible": True},
}


def normal(*shape: int, seed: int = 3) -> Tensor:
    """Random float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind: str, options: dict[str, Any]) -> Model:
    """A model in which no branch is zero, with parameters of one byte each."""
    torch.manual_seed(0)
    model = CLASSES[kind](**options).double().eval()
    shake(model, 0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(rounded(parameter))
    if isinstance(model, EquiformerPotential):
        structures = [potentials.molecule(3 + seed, seed) for seed in range(6)]
        for seed, item in enumerate(structures):
            item |= {"energy": -20 * normal(seed=seed), "forces": normal(3 + seed, 3, seed=seed)}
        model.fit(structures)
    return model


def dense(options: dict[str, Any]) -> Case:
    """Two structures of seven points."""
    options = {**SMALL, "init_out_zero": False, **options}
    model = make("equiformer", options)
    assert isinstance(model, Equiformer)
    sample = example(model)
    return "equiformer", options, {"inputs": sample.inputs, "coors": sample.coors, **sample.extra}


def dense_cases() -> dict[str, Case]:
    """Dense calls of `Equiformer`."""
    cases = {name: dense(options) for name, options in {**KINDS, **DENSE}.items()}
    ragged = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]])
    four = {
        "coors": normal(4, 7, 3),
        "inputs": normal(4, 7, 5, seed=4),
        "mask": ragged.bool(),
    }
    bonds = (normal(4, 7, 7, seed=5) > 0.6) | torch.eye(7).roll(1, 0).bool()
    for attention, options in (("l2", {}), ("mlp", MLP)):
        whole = {**SMALL, "init_out_zero": False, **options}
        cases[f"ragged-{attention}"] = "equiformer", {**whole, **LINEAR, "num_neighbors": 3}, four
        linked = {**whole, **KINDS["l2-adjacency"], "valid_radius": 2.5}
        cases[f"ragged-adjacency-{attention}"] = "equiformer", linked, {**four, "adj_mat": bonds | bonds.mT}
        apart = normal(2, 7, 3)
        apart[0, 5:] += torch.tensor([[50.0], [90.0]])
        apart[1, 3] = apart[1, 2]
        lonely = {"coors": apart, "inputs": normal(2, 7, 5, seed=4)}
        cases[f"isolated-coincident-{attention}"] = "equiformer", {**whole, "valid_radius": 2.0}, lonely
        alone = {**whole, "valid_radius": 2.0, "attend_self": False}
        cases[f"isolated-without-self-{attention}"] = "equiformer", alone, lonely
        many = {"coors": 1.5 * normal(1, 40, 3), "inputs": normal(1, 40, 5, seed=4)}
        cases[f"forty-points-{attention}"] = "equiformer", {**whole, "num_neighbors": 6}, many
    wide_adjacency = {**SMALL, "init_out_zero": False, **KINDS["mlp-adjacency"], "max_sparse_neighbors": 2}
    shared = {"coors": normal(2, 7, 3), "inputs": normal(2, 7, 5, seed=4), "adj_mat": (bonds | bonds.mT)[0]}
    cases["adjacency-shared"] = "equiformer", wide_adjacency, shared
    return cases


def flat_cases() -> dict[str, Case]:
    """Flat calls of `Equiformer`."""
    batch = torch.tensor([0, 2, 0, 1, 2, 0, 2, 2, 0, 1, 0])
    points = {"inputs": normal(11, 5), "coors": normal(11, 3, seed=4), "batch": batch}
    edge_index = ((batch[:, None] == batch) & (normal(11, 11, seed=5) > -0.5)).nonzero().T
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    edge_index = edge_index[:, torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(1))]
    count = edge_index.shape[1]
    crystal = potentials.together([potentials.crystal(0), potentials.crystal(1)])
    images, offsets = radius_graph(crystal["pos"], 2.9, batch=crystal["batch"], cell=crystal["cell"])
    periodic = {
        "inputs": normal(6, 5),
        "coors": crystal["pos"],
        "batch": crystal["batch"],
        "cell": crystal["cell"],
        "edge_index": images,
        "cell_offsets": offsets,
    }
    cases: dict[str, Case] = {}
    for attention, options in (("l2", {}), ("mlp", MLP)):
        whole = {**SMALL, "init_out_zero": False, **options}
        cases[f"flat-{attention}"] = "equiformer", {**whole, **LINEAR}, points
        near = {**whole, "valid_radius": 2.0, "num_neighbors": 3}
        cases[f"flat-radius-{attention}"] = "equiformer", near, points
        given = {**points, "edge_index": edge_index, "edge_attr": normal(count, 3, seed=6)}
        cases[f"flat-edges-{attention}"] = "equiformer", {**whole, "edge_dim": 3, "valid_radius": 3.0}, given
        bonds = {**given, "edge_attr": torch.arange(count) % 4}
        tokens = {**whole, "edge_dim": 3, "num_edge_tokens": 4, "attend_self": False, "num_degrees": 2, "dim": 4}
        cases[f"flat-bonds-{attention}"] = "equiformer", {**tokens, "output_degrees": 2, "heads": 2}, bonds
        cases[f"flat-periodic-{attention}"] = "equiformer", {**whole, "valid_radius": 2.9}, periodic
    listed = {"inputs": {0: normal(11, 5), 1: normal(11, 2, 3)}, "coors": normal(11, 3, seed=4)}
    several = {**SMALL, "init_out_zero": False, "input_degrees": 2, "dim_in": (5, 2), "reversible": True}
    cases["flat-single-reversible"] = "equiformer", several, {**listed, "edge_index": edge_index}
    return cases


def potential_cases() -> dict[str, Case]:
    """`EquiformerPotential`, of molecules and of crystals."""
    base = {
        "species": potentials.SPECIES,
        "cutoff": potentials.CUTOFF,
        "dim": (8, 6, 4),
        "num_degrees": 3,
        "heads": 2,
        "dim_head": 4,
        "radial_hidden_dim": 12,
    }
    targets = {
        "dipole": {"degree": 1, "per": "structure"},
        "charges": {"degree": 0},
        "quadrupole": {"degree": 2, "per": "structure", "channels": 2},
        "gaps": {"degree": 0, "per": "structure", "channels": 3},
    }
    open_ = potentials.together([potentials.molecule(5, 1), potentials.molecule(3, 2), potentials.molecule(1, 3)])
    closed = potentials.together([potentials.crystal(0), potentials.crystal(1)])
    edges, offsets = radius_graph(closed["pos"], potentials.CUTOFF, batch=closed["batch"], cell=closed["cell"])
    slab = {**closed, "pbc": torch.tensor([[True, True, False], [True, False, True]])}
    return {
        f"potential-{name}": ("potential", {**base, **options}, inputs)
        for name, options, inputs in (
            ("tiny", {"dim": (3, 2, 2), "heads": 1, "dim_head": 2, "radial_hidden_dim": 4, "targets": targets}, open_),
            ("open-l2", {}, open_),
            ("open-mlp", MLP, open_),
            ("targets", {"targets": targets}, open_),
            ("targets-periodic-mlp", {"targets": targets, **MLP, "reflection_equivariant": False}, closed),
            ("periodic-l2", {}, closed),
            (
                "periodic-given",
                {"ff_include_htype_norms": False},
                {**closed, "edge_index": edges, "cell_offsets": offsets},
            ),
            ("slab-nearest", {"max_neighbors": 7, "num_degrees": 2, "dim": 6}, slab),
            ("four-degrees", {"dim": 4, "num_degrees": 4, "depth": 1, "targets": {"third": {"degree": 3}}}, open_),
        )
    }


def published_models() -> dict[str, Case]:
    """EquiformerV2 and V3."""
    both = published_cases.together(published_cases.molecule(), published_cases.crystal())
    vectors = published_cases.molecule(5, seed=4)
    plain = {name: vectors[name] for name in ("atomic_numbers", "pos")}
    framed = {**vectors, "edge_frames": frames_of(vectors)}
    deep = {"lmax_list": [3], "grid_resolution": 10}
    no_grid = {"use_grid_mlp": False}
    one = {"num_layers": 1, "num_heads": 1}
    v2 = {
        "tiny": (one | {"use_gate_act": True, **no_grid, "regress_forces": False}, both),
        "grid-sep": ({}, both),
        "grid-s2": ({"use_sep_s2_act": False, "norm_type": "rms_norm_sh"}, both),
        "gate": ({"use_gate_act": True, **no_grid, "use_m_share_rad": True, "norm_type": "layer_norm"}, both),
        "s2": ({"use_sep_s2_act": False, **no_grid, "share_atom_edge_embedding": True}, both),
        "sep": ({**no_grid, "use_attn_renorm": False, "regress_forces": False, "norm_type": "rms_norm_sh"}, both),
        "lmax3-mmax1": ({**deep, "mmax_list": [1], "use_atom_edge_embedding": False}, both),
        "lmax5": ({"lmax_list": [5], "grid_resolution": 14, "num_layers": 1, **no_grid, "use_gate_act": True}, plain),
        "frames": ({**deep, "mmax_list": [2], "detach_frames": True}, framed),
        "found": ({"max_neighbors": 6, "gradient_checkpointing_block_list": [1, 0]}, plain),
        "wider": (
            {"sphere_channels": 24, "num_heads": 4, "num_layers": 1, "avg_num_nodes": 5.0, "avg_degree": 7.0},
            both,
        ),
    }
    l3 = {"lmax": 3, "mmax": 2, "attn_grid_resolution_list": [10, 8], "ffn_grid_resolution_list": [10, 10]}
    l3 |= {"regress_stress": False}
    dropped = {"alpha_drop": 0.1, "attn_weights_drop": 0.1, "drop_path_rate": 0.1}
    merged = {"use_add_merge": True, "softcap": 3.0, "attn_eps": 1e-3}
    v3 = {
        "tiny": (one, both),
        "default": ({}, both),
        "lmax3": ({**l3, "norm_type": "equivariant_layer_norm"}, both),
        "lmax5": ({"lmax": 5, "mmax": 3, "num_layers": 1, **grids(14)}, plain | {"cell": 20 * torch.eye(3).double()}),
        "gate": ({"attn_activation": "gate", "ffn_activation": "gate", **no_grid}, both),
        "s2": ({"attn_activation": "s2", "ffn_activation": "s2", **no_grid, "norm_type": "sep_layer_norm"}, both),
        "sep": ({"attn_activation": "sep_s2", "ffn_activation": "sep_s2", **no_grid, **dropped}, both),
        "gates2-plain": ({**no_grid, "norm_type": "merge_layer_norm_attn_rms_norm"}, both),
        "s2-swiglu": ({"attn_activation": "s2_swiglu", "ffn_activation": "s2_swiglu", "use_envelope": False}, both),
        "square": ({"attn_activation": "sep_s2_square", "ffn_activation": "sep_s2_swiglu_mem"}, both),
        "merge-swiglu": ({"attn_activation": "sep-merge_s2_swiglu", "ffn_activation": "sep-merge_s2_swiglu"}, both),
        "per-order": ({"use_rad_l_parametrization": False, "use_gate_force_head": False, **l3}, both),
        "add-merge-softcap": ({**merged, "norm_type": "merge_rms_norm"}, both),
        "no-elements": ({"use_atom_edge_embedding": False, "use_attn_renorm": False, "regress_forces": False}, both),
        "detached-frames": ({"detach_frames": True, **l3}, framed),
    }
    gradient = {
        "tiny": (one, both),
        "default": ({}, both),
        "lmax3": ({**l3, "norm_type": "merge_rms_norm"}, both),
        "gate": ({"attn_activation": "gate", "ffn_activation": "gate", **no_grid}, both),
        "sep": ({"attn_activation": "sep_s2", "ffn_activation": "sep_s2", **no_grid, "use_envelope": False}, both),
        "add-merge-softcap": ({**merged, "norm_type": "merge_layer_norm_attn_rms_norm"}, both),
        "per-order": ({"use_rad_l_parametrization": False, "norm_type": "equivariant_layer_norm"}, both),
        "detached-found": ({"detach_frames": True, "regress_stress": False, "max_neighbors": 5}, plain),
        "frames": ({"regress_stress": False, "norm_type": "sep_layer_norm"}, framed),
        "checkpointing": ({"gradient_checkpointing_block_list": [1, 1], "use_pbc": False}, both),
    }
    return {
        f"{name}-{case}": (name.split("-")[0], {**config, **options}, inputs)
        for name, config, cases in (("v2", V2, v2), ("v3", V3, v3), ("v3-gradient", GRADIENT, gradient))
        for case, (options, inputs) in cases.items()
    }


def grids(latitudes: int) -> dict[str, list[int]]:
    """Grids of V3."""
    return {name: [latitudes, latitudes] for name in ("attn_grid_resolution_list", "ffn_grid_resolution_list")}


def frames_of(structure: dict[str, Tensor]) -> Tensor:
    """A frame of each edge, rolled about it at random."""
    senders, receivers = structure["edge_index"]
    along = nn.functional.normalize(structure["pos"][senders] - structure["pos"][receivers], dim=1)
    across = torch.linalg.cross(along, normal(len(along), 3, seed=9))
    across = nn.functional.normalize(across, dim=1)
    return torch.stack((across, along, torch.linalg.cross(across, along)), dim=1)


def all_cases() -> dict[str, Case]:
    """By name."""
    return {**dense_cases(), **flat_cases(), **potential_cases(), **published_models()}
