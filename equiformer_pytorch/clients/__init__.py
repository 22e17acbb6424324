"""Programs that move atoms, driven by potentials of any family; one module each, imported when it is asked for.

A module here is thin: it says to a program what :class:`~equiformer_pytorch.base.potential.Potential` can do. Programs
that take ASE's calculators (ASE itself, i-PI, OpenMM-ML) need none. See docs/programs.md.
"""
