"""How good backbones are, by measures that need no folding network. A backbone is (residues, 4, 3) in Å: N, CA, C, O."""
