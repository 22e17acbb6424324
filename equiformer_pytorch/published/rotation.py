"""Wigner matrices of rotations that carry edges to y, order-major and only for the orders in use."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.constants import ExactConstants
from equiformer_pytorch.so3.harmonics import recurrence_constants, spherical_harmonics
from equiformer_pytorch.so3.rows import components, order_major_rows
from equiformer_pytorch.so3.wigner import half_turn_coefficients, half_turn_to_y, x_half_turn_signs

# How far the second row of a given frame may be from the direction of its edge; the published code rounds within this.
FRAME_TOLERANCE = 5e-3


class FrameRotation(ExactConstants):
    r"""D of the rotation that carries each edge to y: rows order-major with |m| ≤ `max_order`, columns degree-major.

    By default the half-turns of :mod:`equiformer_pytorch.so3.wigner`, exact, without poles and never detached. A given
    frame R differs from them by a roll γ about the edge, D(R) = D_y(γ) D(half-turn): so R is met to rounding, and a
    constant R still lets gradients through to the edge, at constant roll. A frame that carries gradients keeps them.

    An edge without direction has a zero matrix above degree 0. Above degree 4 directions are worked on in float64.

    The published code finds D from Euler angles, with zero gradient at their poles or, in EquiformerV2, everywhere.
    """

    widen_above = 4
    recurrence: Tensor
    coefficients: Tensor
    signs: Tensor
    swap: Tensor
    order: Tensor

    def __init__(self, max_degree: int, max_order: int) -> None:
        super().__init__()
        self.max_degree, self.max_order = max_degree, max_order
        rows = order_major_rows(max_degree, max_order)
        coefficients = torch.zeros(
            (max_degree + 1) * (2 * max_degree + 1), len(rows), components(max_degree), dtype=torch.float64
        )
        for degree in range(max_degree + 1):
            polynomial = half_turn_coefficients(degree).unflatten(1, (2 * degree + 1, 2 * degree + 1))
            for row, (row_degree, order) in enumerate(rows):
                if row_degree == degree:
                    columns = slice(degree**2, (degree + 1) ** 2)
                    coefficients[: polynomial.shape[0], row, columns] = polynomial[:, degree + order]
        signs = torch.cat([x_half_turn_signs(degree) for degree in range(max_degree + 1)])
        self.register_buffer("recurrence", recurrence_constants(2 * max_degree), persistent=False)
        self.register_buffer("coefficients", coefficients.flatten(1), persistent=False)
        self.register_buffer("signs", signs, persistent=False)
        swap = torch.tensor([rows.index((degree, -order)) for degree, order in rows])
        self.register_buffer("swap", swap, persistent=False)
        self.register_buffer("order", torch.tensor([order for _, order in rows]), persistent=False)

    def forward(
        self, vectors: Float[Tensor, "edges 3"], frames: Float[Tensor, "edges 3 3"] | None = None
    ) -> Float[Tensor, "edges rows components"]:
        """The matrices, in the dtype of `vectors`."""
        given = vectors.dtype
        vectors = vectors.double() if self.max_degree > self.widen_above else vectors
        square = (vectors * vectors).sum(-1, keepdim=True)
        directed = square > torch.finfo(vectors.dtype).tiny
        direction = vectors / torch.where(directed, square, torch.ones_like(square)).sqrt()
        if frames is not None:
            frames = frames.to(vectors.dtype)
            # The value of the frame, the derivative of the edge.
            row = frames[:, 1]
            direction = row if frames.requires_grad else row + (direction - direction.detach())
        matrix = self._half_turns(direction, directed)
        if frames is not None and self.max_order > 0:
            matrix = self._roll(matrix, frames, direction)
        return matrix.to(given)

    def _half_turns(
        self, direction: Float[Tensor, "edges 3"], directed: Tensor
    ) -> Float[Tensor, "edges rows components"]:
        dtype = direction.dtype
        axis, below = half_turn_to_y(direction)
        harmonics = spherical_harmonics(axis, self.recurrence.to(dtype), even_only=True)
        matrix = (harmonics @ self.coefficients.to(dtype)).unflatten(1, (-1, components(self.max_degree)))
        signs = self.signs.to(dtype)
        factor = torch.where(below[:, None], signs, torch.ones_like(signs)) * directed
        factor = torch.cat((torch.ones_like(factor[:, :1]), factor[:, 1:]), dim=1)
        return matrix * factor[:, None]

    def _roll(
        self,
        matrix: Float[Tensor, "edges rows components"],
        frames: Float[Tensor, "edges 3 3"],
        direction: Float[Tensor, "edges 3"],
    ) -> Float[Tensor, "edges rows components"]:
        """D_y(γ) times the matrix, γ from the frame and the half-turn; it mixes +m and −m like a plane."""
        axis, below = half_turn_to_y(direction if frames.requires_grad else direction.detach())
        turn = 2 * axis[:, :, None] * axis[:, None] - torch.eye(3, dtype=axis.dtype, device=axis.device)
        flip = turn.new_tensor([1.0, -1.0, -1.0])
        turn = turn * torch.where(below[:, None], flip, torch.ones_like(flip))[:, None]
        cosine = (frames[:, 0] * turn[:, 0]).sum(-1)
        sine = (frames[:, 0] * turn[:, 2]).sum(-1)
        powers = [(torch.ones_like(cosine), torch.zeros_like(sine))]
        for _ in range(self.max_order):
            real, imaginary = powers[-1]
            powers.append((real * cosine - imaginary * sine, real * sine + imaginary * cosine))
        order = self.order
        real = torch.stack([real for real, _ in powers], dim=1)[:, order.abs()]
        imaginary = torch.stack([imaginary for _, imaginary in powers], dim=1)[:, order.abs()] * -order.sign()
        return matrix * real[:, :, None] + matrix[:, self.swap] * imaginary[:, :, None]


def check_frames(frames: Float[Tensor, "edges 3 3"], vectors: Float[Tensor, "edges 3"]) -> None:
    """ValueError unless each frame is a rotation that carries its edge to y."""
    frames, vectors = frames.detach(), vectors.detach().to(frames.dtype)
    carried = (frames @ vectors[:, :, None]).squeeze(-1)
    length = vectors.norm(dim=1)
    off = (carried - torch.stack((torch.zeros_like(length), length, torch.zeros_like(length)), dim=1)).abs().amax(1)
    product = frames @ frames.mT - torch.eye(3, dtype=frames.dtype, device=frames.device)
    improper = (product.abs().amax((1, 2)) > FRAME_TOLERANCE) | (torch.linalg.det(frames) < 0)
    bad = (off > FRAME_TOLERANCE * length) | improper
    if bool(bad.any()):
        where = int(bad.nonzero()[0])
        raise ValueError(
            "edge_frames must be rotations that carry each edge vector (pos[sender] + offset·cell − pos[receiver]) to"
            f" the y axis; that of edge {where} does not: {frames[where].tolist()}"
        )
