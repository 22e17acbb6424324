"""How good backbones are, by measures that need no folding network.

A backbone is a tensor (residues, 4, 3) in Å: N, CA, C and O.
"""
