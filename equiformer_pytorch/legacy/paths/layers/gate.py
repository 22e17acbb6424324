"""A name in pickles of 1.2; what it held is made anew."""

from torch import nn


class Gate(nn.Module):
    """Now a part of the feed-forward network."""
