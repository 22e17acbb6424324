"""Mathematics of SO(3) and O(3): pure functions, float64 constants, no layers."""
