"""Files of potentials, whichever model they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.saved import read_saved, weights_of

# Where the class of each family is, by the name that its files bear. A family that is not listed is not found in files.
FAMILIES = {
    "EquiformerPotential": "equiformer_pytorch.atoms.potential",
    "EquiformerV2": "equiformer_pytorch.models.equiformer_v2",
    "EquiformerV3": "equiformer_pytorch.models.equiformer_v3",
    "ESCNMD": "equiformer_pytorch.models.escn_md",
}


def load_potential(source: str | os.PathLike[str] | Mapping[str, Any]) -> Potential:
    """The model that a file holds, in evaluation mode: an :class:`EquiformerPotential`, :class:`EquiformerV2`,
    :class:`EquiformerV3` or :class:`ESCNMD`, as their `save` or the official trainers wrote it; with averaged weights,
    where it has some.

    Args:
        source: a file, of which no code is run, or its contents.

    Raises:
        OSError: there is no such file.
        ValueError: it holds none of these; the message names the file.
    """
    contents = read_saved(source)
    where = "source" if isinstance(source, Mapping) else os.fspath(source)
    try:
        weights = weights_of(contents)
    except ValueError as error:
        raise ValueError(f"{where} holds none of {', '.join(FAMILIES)}: {error}") from error
    named = contents.get("model")
    for name, kind in _families(named if isinstance(named, str) else None):
        if name == named or kind.recognises(weights):
            try:
                return kind.from_file(contents)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where} does not fit {name}: {error}") from error
    raise ValueError(
        f"{where} holds none of {', '.join(FAMILIES)}, but {sorted(weights)[:5]}: wanted is what their save, or an"
        " official trainer, writes"
    )


def _families(named: str | None) -> Iterator[tuple[str, type[Potential]]]:
    """That which the file names, or all; imported one after the other."""
    for name, module in FAMILIES.items():
        if named not in FAMILIES or name == named:
            yield name, getattr(import_module(module), name)
