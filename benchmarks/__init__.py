"""Measurements: ``python -m benchmarks.compare`` (speed, memory, growth) and ``python -m benchmarks.quality``."""
