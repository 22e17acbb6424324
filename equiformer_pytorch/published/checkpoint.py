"""Published checkpoints."""

from __future__ import annotations


class FromCheckpoint:
    """later"""
