"""Layers of eSCN-MD (eSEN, UMA) that no other family has, in the layout of parameters of fairchem's files."""
