"""The pieces of EquiformerV2 and EquiformerV3, as published. Features are (points, (L+1)², channels), degree-major."""

# Pickles of 1.2 name modules that are elsewhere now.
__path__.append(f"{__path__[0]}/../legacy/paths/published")
