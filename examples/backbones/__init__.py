"""Generating protein backbones: `python -m examples.generate_backbones`."""
