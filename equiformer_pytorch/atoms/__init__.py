"""What only users with atoms need: periodic cells and their neighbours."""

from equiformer_pytorch.atoms.neighbours import radius_graph

__all__ = ["radius_graph"]
