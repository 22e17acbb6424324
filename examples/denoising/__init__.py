"""Protein backbone denoising: data, model, evaluation and report of `denoise.py`."""
