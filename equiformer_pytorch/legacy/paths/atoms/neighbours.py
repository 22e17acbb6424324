"""Where 1.2 had it."""

from equiformer_pytorch.graph.periodic import radius_graph

__all__ = ["radius_graph"]
