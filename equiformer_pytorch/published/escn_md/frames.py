"""The frames of edges as fairchem has them, for sampled activations, which see how a frame rolls."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# From here on the charts are blended: y from −BAND to BAND.
BAND = 0.9


def blended_frames(
    vectors: Float[Tensor, "edges 3"], like: Float[Tensor, "edges 3 3"] | None = None
) -> Float[Tensor, "edges 3 3"]:
    r"""Rotations that carry each edge to y, without a roll, or with the constant one that gives the frames `like`.

    Of a unit vector (x, y, z) the shortest rotation to +y and the shortest by way of −y, as quaternions (w, i, j, k),

    .. math:: a ∝ (1 + y, -z, 0, x), \qquad b ∝ (-z, 1 - y, x, 0),

    blended by a smooth step in y from −0.9 to 0.9: smooth all over the sphere. (fairchem 2.24,
    ``common/quaternion/wigner_d_hybrid.py``, which rolls them at random.)

    Returns:
        matrices on (x, y, z), differentiable; an edge without direction has the unit matrix.
    """
    square = (vectors * vectors).sum(-1)
    directed = square > torch.finfo(vectors.dtype).tiny
    up = vectors.new_tensor((0.0, 1.0, 0.0))
    # Not a division by zero hidden behind `where`, whose gradient would be NaN.
    safe = torch.where(directed[:, None], vectors, up)
    x, y, z = (safe / safe.norm(dim=-1, keepdim=True)).unbind(-1)
    zero = torch.zeros_like(x)
    step = smooth_step(((y + BAND) / (2 * BAND)).clamp(0, 1))[:, None]
    first = _normalised(torch.stack((1 + y, -z, zero, x), dim=-1))
    second = _normalised(torch.stack((-z, 1 - y, x, zero), dim=-1))
    second = torch.where((first * second).sum(-1, keepdim=True) < 0, -second, second)
    frames = matrices(_normalised((1 - step) * second + step * first))
    if like is None:
        return frames
    between = like.to(frames) @ frames.detach().mT  # a rotation about y
    cosine, sine = between[:, 0, 0], between[:, 0, 2]
    rolls = torch.zeros_like(between)
    rolls[:, 1, 1] = 1
    rolls[:, 0, 0], rolls[:, 0, 2], rolls[:, 2, 0], rolls[:, 2, 2] = cosine, sine, -sine, cosine
    return rolls @ frames


def smooth_step(t: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
    r""":math:`σ\bigl(\tfrac{2t-1}{t(1-t)}\bigr)`: 0 at 0, 1 at 1, all derivatives zero at both."""
    inside = (t > 0) & (t < 1)
    safe = torch.where(inside, t, 0.5)
    return torch.where(inside, ((2 * safe - 1) / (safe * (1 - safe))).sigmoid(), (t >= 1).to(t.dtype))


def _normalised(q: Float[Tensor, "edges 4"]) -> Float[Tensor, "edges 4"]:
    """One of the charts vanishes at each pole, where it weighs nothing."""
    return q / q.square().sum(-1, keepdim=True).clamp(min=torch.finfo(q.dtype).eps ** 2).sqrt()


def matrices(q: Float[Tensor, "edges 4"]) -> Float[Tensor, "edges 3 3"]:
    """Rotation matrices of unit quaternions (w, i, j, k)."""
    w, i, j, k = q.unbind(-1)
    rows = (
        (1 - 2 * (j * j + k * k), 2 * (i * j - w * k), 2 * (i * k + w * j)),
        (2 * (i * j + w * k), 1 - 2 * (i * i + k * k), 2 * (j * k - w * i)),
        (2 * (i * k - w * j), 2 * (j * k + w * i), 1 - 2 * (i * i + j * j)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
