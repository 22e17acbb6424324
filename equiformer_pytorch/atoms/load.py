"""Files of potentials, whichever model they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from equiformer_pytorch.atoms.potential import EquiformerPotential
from equiformer_pytorch.base.saved import read_saved
from equiformer_pytorch.models.equiformer_v2 import EquiformerV2
from equiformer_pytorch.models.equiformer_v3 import EquiformerV3

Potential = EquiformerPotential | EquiformerV2 | EquiformerV3

# What only the weights of one model have in their names.
MARKS = {"energies.references": EquiformerPotential, ".ga.so2_conv_1.": EquiformerV2, ".ga.so2_linear_1.": EquiformerV3}


def load_potential(source: str | os.PathLike[str] | Mapping[str, Any]) -> Potential:
    """The model that a file holds, in evaluation mode: an :class:`EquiformerPotential`, :class:`EquiformerV2` or
    :class:`EquiformerV3`, as their `save` or the official trainers wrote it; with averaged weights, where it has some.

    Args:
        source: a file, of which no code is run, or its contents.

    Raises:
        OSError: there is no such file.
        ValueError: it holds none of these; the message names the file.
    """
    contents = read_saved(source)
    weights = contents.get("state_dict", contents)
    names = list(map(str, weights)) if isinstance(weights, Mapping) else []
    where = "source" if isinstance(source, Mapping) else os.fspath(source)
    for mark, kind in MARKS.items():
        if any(mark in name for name in names):
            try:
                if kind is EquiformerPotential:
                    return EquiformerPotential.from_checkpoint(contents).eval()
                return kind.from_checkpoint(contents, ema=bool(contents.get("ema")))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where} does not fit {kind.__name__}: {error}") from error
    raise ValueError(
        f"{where} holds none of EquiformerPotential, EquiformerV2 and EquiformerV3, but {sorted(names)[:5]}: wanted is"
        " what their save, or an official trainer, writes"
    )
