"""Equivariant layers: each takes features of a :class:`Fiber` and, where it looks at neighbours, a ``Graph``."""

# Pickles of 1.2 name modules that are elsewhere now.
__path__.append(f"{__path__[0]}/../legacy/paths/layers")
