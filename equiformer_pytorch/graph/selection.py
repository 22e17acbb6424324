"""Choosing the nearest, the same way whatever else is looked at."""

import math

import torch
from jaxtyping import Bool, Float
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
