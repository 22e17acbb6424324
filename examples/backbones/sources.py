"""Where chains to learn from come from: those that are shipped, a folder of the user's, or SidechainNet."""

from __future__ import annotations

from pathlib import Path

from examples.backbones.chains import Chains, load_chains
from examples.backbones.settings import Settings

SETUP_ERRORS = ()


def chains_of(settings: Settings) -> Chains:
    """The compact ones."""
    return load_chains().compact()
