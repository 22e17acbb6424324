"""The pieces of EquiformerV2 and EquiformerV3, as published. Features are (points, (L+1)², channels), degree-major."""
