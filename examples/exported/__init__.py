"""Potentials as files that run without this package."""
