"""A name in pickles of 1.2; what it held is made anew."""

from torch import nn


class EdgeFrame(nn.Module):
    """Now :class:`equiformer_pytorch.graph.frames.EdgeFrames`."""
