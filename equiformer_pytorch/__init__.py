"""Equivariant attention networks for molecules, proteins and materials."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiformer_pytorch.version import __version__

if TYPE_CHECKING:
    from equiformer_pytorch.atoms.potential import EquiformerPotential
    from equiformer_pytorch.base.checks import unchecked_values
    from equiformer_pytorch.graph.chain import chain_edges
    from equiformer_pytorch.models.equiformer import Equiformer
    from equiformer_pytorch.models.equiformer_v2 import EquiformerV2
    from equiformer_pytorch.models.equiformer_v3 import EquiformerV3
    from equiformer_pytorch.models.escn_md import ESCNMD

__all__ = [
    "ESCNMD",
    "Equiformer",
    "EquiformerPotential",
    "EquiformerV2",
    "EquiformerV3",
    "__version__",
    "chain_edges",
    "unchecked_values",
]

# Imported when asked for, so that importing the package takes no longer than what one wants of it: `equiformer --help`
# wants nothing of torch.
_LATER = {
    "ESCNMD": "models.escn_md",
    "Equiformer": "models.equiformer",
    "EquiformerPotential": "atoms.potential",
    "EquiformerV2": "models.equiformer_v2",
    "EquiformerV3": "models.equiformer_v3",
    "chain_edges": "graph.chain",
    "unchecked_values": "base.checks",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Pickles of 1.2 name modules that are elsewhere now.
__path__.append(f"{__path__[0]}/legacy/paths")
