"""Choosing the nearest, the same way whatever else is looked at."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def smallest(
    key: Float[Tensor, "*rows columns"], allowed: Bool[Tensor, "*rows columns"], count: float
) -> Bool[Tensor, "*rows columns"]:
    """In each row the `count` allowed entries with the smallest key; among equal keys the first."""
    if count >= key.shape[-1]:
        return allowed
    if count < 1:
        return torch.zeros_like(allowed)
    key = key.masked_fill(~allowed, math.inf)
    last = key.topk(int(count), dim=-1, largest=False).values[..., -1:]
    below = key < last
    equal = (key == last) & allowed
    room = int(count) - below.sum(-1, keepdim=True)
    return below | (equal & (equal.cumsum(-1) <= room))


def places(chosen: Bool[Tensor, "*size"], count: int) -> Int[Tensor, "dimensions count"]:
    """Where a tensor is true, one row of indices for each of its dimensions; `count` times in all, which is known
    beforehand, so that no device is waited for."""
    if chosen.device.type == "cpu" or hasattr(torch.compiler, "is_exporting"):  # torch ≥ 2.7: on every device
        return torch.nonzero_static(chosen, size=count).T.contiguous()
    return chosen.nonzero().T.contiguous()
