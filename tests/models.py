"""Small models and inputs for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from equiformer_pytorch import Equiformer

Model = TypeVar("Model", bound=nn.Module)

SMALL = {
    "dim": (6, 4, 3),
    "dim_in": (5,),
    "num_degrees": 3,
    "heads": 2,
    "dim_head": 4,
    "depth": 2,
    "radial_hidden_dim": 8,
    "output_degrees": 3,
}

# Every kind of model that the promises name. `inputs` builds what each of them needs.
KINDS: dict[str, dict[str, Any]] = {
    "l2": {},
    "mlp": {"l2_dist_attention": False},
    "l2-radius": {"valid_radius": 1.8, "attend_self": False, "num_neighbors": 5},
    "mlp-linear-heads": {
        "l2_dist_attention": False,
        "attn_query": True,
        "num_linear_attn_heads": 2,
        "linear_attn_dim_head": 3,
    },
    "l2-linear-heads": {"num_linear_attn_heads": 2, "linear_attn_dim_head": 3, "single_headed_kv": True},
    "mlp-single-kv": {"l2_dist_attention": False, "single_headed_kv": True, "gate_attn_head_outputs": False},
    "l2-adjacency": {
        "attend_sparse_neighbors": True,
        "num_neighbors": 2,
        "max_sparse_neighbors": 3,
        "num_adj_degrees_embed": 2,
        "adj_dim": 3,
    },
    "mlp-adjacency": {
        "l2_dist_attention": False,
        "attend_sparse_neighbors": True,
        "num_neighbors": 0,
        "num_adj_degrees_embed": 3,
        "adj_dim": 2,
        "valid_radius": 2.5,
    },
    "l2-edges": {"edge_dim": 3, "ff_include_htype_norms": True},
    "mlp-bonds": {"l2_dist_attention": False, "num_edge_tokens": 4, "edge_dim": 3},
    "l2-reversible": {"reversible": True},
    "mlp-reversible": {"l2_dist_attention": False, "reversible": True, "depth": 3, "output_degrees": 2},
    "l2-degrees-in": {"input_degrees": 2, "dim_in": (5, 2)},
    "l2-reduced": {"reduce_dim_out": True, "linear_out": False},
    "l2-reflection": {"reflection_equivariant": True},
    "mlp-reflection": {"reflection_equivariant": True, "l2_dist_attention": False},
    "l2-conditioned": {"condition_dim": 2, "dim_out": (2, 3, 1), "norm_out": False},
    "mlp-conditioned-reversible": {
        "condition_dim": 1,
        "l2_dist_attention": False,
        "attn_query": True,
        "reversible": True,
        "depth": 3,
    },
}


def shake(model: Model, scale: float = 0.1, seed: int = 1) -> Model:
    """Add noise to every parameter: none stays at a special starting value such as zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += scale * noise.to(parameter)
    return model


def build(dtype: torch.dtype = torch.float64, seed: int = 0, noise: float = 0.1, **options: Any) -> Equiformer:
    """A small model in evaluation mode whose branches are not zero. `options` go over `SMALL`."""
    torch.manual_seed(seed)
    model = Equiformer(**{**SMALL, "init_out_zero": False, **options})
    shake(model.double(), noise)
    return model.to(dtype).eval()


def over_inputs(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """`function` of the features, a tensor or one per degree."""
    return function(inputs) if isinstance(inputs, Tensor) else {d: function(x) for d, x in inputs.items()}


@dataclass
class Example:
    """What a model is called with."""

    inputs: Any
    coors: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Example:
        """All floating tensors in this dtype."""

        def cast(x: Tensor) -> Tensor:
            return x.to(dtype) if x.is_floating_point() else x

        return Example(
            over_inputs(cast, self.inputs), cast(self.coors), {name: cast(x) for name, x in self.extra.items()}
        )

    def call(self) -> dict[str, Any]:
        """The arguments by name."""
        return {"inputs": self.inputs, "coors": self.coors, **self.extra}

    def all_degrees(self, model: Equiformer) -> dict[int, Tensor]:
        """What the model gives, by degree."""
        return model(**self.call(), return_all_degrees=True)


def example(model: Equiformer, batch: int = 2, points: int = 7, seed: int = 2, spread: float = 1.0) -> Example:
    """Random float64 input of the shape that the model takes."""
    g = torch.Generator().manual_seed(seed)
    size = (batch, points)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    inputs: Any = normal(*size, model.dim_in[0])
    if model.point_features.tokens is not None:
        inputs = torch.randint(0, model.point_features.tokens.num_embeddings, size, generator=g)
    elif model.input_degrees > 1:
        inputs = {d: normal(*size, c, 2 * d + 1) for d, c in enumerate(model.dim_in)}

    extra = {}
    if model.edge_features.edges is not None:
        extra["edges"] = torch.randint(0, model.edge_features.edges.num_embeddings, (*size, points), generator=g)
    elif model.edge_features.edge_dim:
        extra["edges"] = normal(*size, points, model.edge_features.edge_dim)
    if model.attend_sparse_neighbors or model.edge_features.adjacency is not None:
        random = torch.rand((*size, points), generator=g) < 0.2
        random[:, :1, 1:2] = random[:, 1:2, 2:3] = True
        extra["adj_mat"] = random | random.mT
    if model.structure_features is not None:
        extra["condition"] = normal(batch, model.structure_features.condition_dim)
    return Example(inputs, spread * normal(*size, 3), extra)


def mostly_slow(kinds: Iterable[str], *quick: str) -> list[Any]:
    """Parameters of a test, all of them slow but for these."""
    return [pytest.param(kind, marks=[] if kind in quick else pytest.mark.slow) for kind in kinds]


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation as a share of the largest entry that is expected."""
    if expected.numel() == 0:
        assert actual.shape == expected.shape
        return 0.0
    scale = expected.double().abs().max().item()
    return (actual.double() - expected.double()).abs().max().item() / max(scale, 1e-300)


def total(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, which Python's would begin at an integer."""
    return torch.stack(list(parts)).sum()


def squares(outputs: Mapping[Any, Tensor]) -> Tensor:
    """The sum of the squares of all entries: a loss."""
    return total(x.square().sum() for x in outputs.values())


def grad_of(x: Tensor) -> Tensor:
    """What a backward pass left."""
    assert x.grad is not None
    return x.grad


def blocks(model: Equiformer) -> Any:
    """Pairs of an attention and a feed-forward."""
    return model.layers.blocks
