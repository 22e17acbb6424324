"""Potentials: data with real labels, and a model trained on them."""
