"""A small generator and small chains for tests."""

from __future__ import annotations

import torch
from torch import nn

from examples.backbones.chains import Chain, load_chains
from examples.backbones.network import BackboneNetwork, NetworkArguments


def small_network(seed: int = 0) -> BackboneNetwork:
    """With random weights everywhere, so that every part has a say."""
    torch.manual_seed(seed)
    network = BackboneNetwork(
        NetworkArguments(dim=(8, 4), depth=1, heads=2, dim_head=4, linear_heads=1, nearest=4, random=2)
    )
    for weight in network.parameters():
        if weight.ndim > 1 and not weight.detach().any():
            nn.init.normal_(weight, std=0.1)
    return network.eval()


def some_chains(count: int = 2, length: int = 20) -> list[Chain]:
    """Pieces of training chains."""
    return [chain.residues(5, 5 + length) for chain in load_chains().train[:count]]
