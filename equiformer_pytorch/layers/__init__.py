"""Equivariant layers: each takes features of a :class:`Fiber` and, where it looks at neighbours, a ``Graph``."""
