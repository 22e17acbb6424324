"""The arguments of `Equiformer`: named, checked and made sense of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from equiformer_pytorch.base.arguments import check_fields, choice, count, flag, positive
from equiformer_pytorch.base.checks import check_number, per_degree
from equiformer_pytorch.layers.fiber import Fiber
from equiformer_pytorch.layers.radial import RADIAL_BASES

UNBOUNDED = 1e5


@dataclass(frozen=True, kw_only=True)
class EquiformerArguments:
    """The arguments of :class:`~equiformer_pytorch.Equiformer`, which says what they mean."""

    dim: int | Sequence[int]
    dim_in: int | Sequence[int] | None = None
    num_degrees: int = count(2)
    input_degrees: int = count(1)
    heads: int | Sequence[int] = 8
    dim_head: int | Sequence[int] = 24
    depth: int = count(2, 0)
    valid_radius: float = positive(UNBOUNDED)
    num_neighbors: float = math.inf
    reduce_dim_out: bool = False
    radial_hidden_dim: int = count(64)
    radial_basis: str = choice("log", RADIAL_BASES)
    num_tokens: int | None = count(None)
    num_positions: int | None = count(None)
    num_edge_tokens: int | None = count(None)
    edge_dim: int | None = count(None, 0)
    attend_self: bool = True
    linear_out: bool = True
    embedding_grad_frac: float = 0.5
    single_headed_kv: bool = False
    ff_include_htype_norms: bool = False
    l2_dist_attention: bool = True
    reversible: bool = False
    attend_sparse_neighbors: bool = False
    gate_attn_head_outputs: bool = True
    num_adj_degrees_embed: int | None = count(None)
    adj_dim: int = count(0, 0)
    max_sparse_neighbors: float = math.inf
    num_linear_attn_heads: int = count(0, 0)
    linear_attn_dim_head: int = count(8)
    init_out_zero: bool = True
    attn_leakyrelu_slope: float = 0.1
    attn_hidden_dim_mult: int = count(4)
    reflection_equivariant: bool = False
    output_degrees: int = count(2)
    condition_dim: int | None = count(None)
    dim_out: int | Sequence[int] | None = None
    norm_out: bool = flag(True)
    attn_query: bool = flag(False)
    dot_product_attention: bool | None = None
    splits: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("num_neighbors", self.num_neighbors, 0, unbounded=True)
        check_number("max_sparse_neighbors", self.max_sparse_neighbors, 0, unbounded=True)
        check_number("embedding_grad_frac", self.embedding_grad_frac, 0, whole=False)
        if self.embedding_grad_frac > 1:
            raise ValueError(f"embedding_grad_frac must be at most 1, got {self.embedding_grad_frac}")
        if self.num_edge_tokens is not None and not self.edge_dim:
            raise ValueError(
                f"num_edge_tokens = {self.num_edge_tokens} needs edge_dim, the width of the edge embedding"
            )
        if self.adj_dim > 0 and self.num_adj_degrees_embed is None:
            raise ValueError(f"adj_dim = {self.adj_dim} needs num_adj_degrees_embed, how many steps to embed")
        if not self.attend_sparse_neighbors and self.num_neighbors < 1:
            raise ValueError("num_neighbors must be at least 1 without attend_sparse_neighbors, got 0")
        if self.radial_basis == "even" and self.valid_radius >= UNBOUNDED:
            raise ValueError("radial_basis = 'even' needs valid_radius, up to which it is spaced")
        if self.attn_query and self.l2_distance:
            raise ValueError("attn_query goes with l2_dist_attention = False: attention by distance has queries anyhow")
        per_degree("dim", self.dim, self.num_degrees)
        if self.dim_in is None and self.input_degrees > self.num_degrees:
            raise ValueError(f"dim_in must be given for input_degrees = {self.input_degrees} > num_degrees")
        if self.dim_out is not None:
            if self.reduce_dim_out:
                raise ValueError(
                    f"reduce_dim_out reads out one channel per degree: dim_out = {self.dim_out} contradicts it"
                )
            per_degree("dim_out", self.dim_out, min(self.output_degrees, self.num_degrees))
        for name, degrees in (
            ("dim_in", self.input_degrees),
            ("heads", self.num_degrees),
            ("dim_head", self.num_degrees),
        ):
            if getattr(self, name) is not None:
                per_degree(name, getattr(self, name), degrees)

    @property
    def fiber(self) -> Fiber:
        """Inside."""
        return Fiber(per_degree("dim", self.dim, self.num_degrees))

    @property
    def fiber_in(self) -> Fiber:
        """Of the input."""
        if self.dim_in is None:
            return self.fiber.keep(self.input_degrees)
        return Fiber(per_degree("dim_in", self.dim_in, self.input_degrees))

    @property
    def fiber_out(self) -> Fiber | None:
        """Of the output projection, where there is one."""
        degrees = min(self.output_degrees, self.num_degrees)
        if self.reduce_dim_out:
            return Fiber((1,) * degrees)
        return None if self.dim_out is None else Fiber(per_degree("dim_out", self.dim_out, degrees))

    @property
    def l2_distance(self) -> bool:
        """Which attention it is, also by its old name."""
        return self.l2_dist_attention if self.dot_product_attention is None else self.dot_product_attention

    def warn_deprecated(self) -> None:
        """Of old names and arguments without effect."""
        for name, why in (
            ("dot_product_attention", "is now called l2_dist_attention"),
            ("splits", "has no effect any more"),
        ):
            if getattr(self, name) is not None:
                warnings.warn(f"{name} {why}", DeprecationWarning, stacklevel=4)
