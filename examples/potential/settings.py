"""All that defines a run of `train_potential.py`. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from equiformer_pytorch.training.options import option
from equiformer_pytorch.training.potentials.settings import PotentialSettings, cutoff, radial_basis

# Many molecules, and each of molecules.xyz alone.
MADE_HERE = (
    *("g2", "aspirin", "paracetamol", "caffeine", "vanillin", "phenylalanine", "glucose", "dopamine"),
    *("cysteine_methyl_ester", "chlorobenzamide", "fluorophenylacetamide"),
)


@dataclass(frozen=True)
class Settings(PotentialSettings):
    """Those of every potential, and data sets that are made here."""

    data: str | None = option(
        "g2", f"{', '.join(MADE_HERE)}: made here with GFN2-xTB; or a folder with files train, valid and test…", str
    )
    cutoff: float = cutoff(3.5)
    radial_basis: str = radial_basis("even")
    data_folder: str = option("potential_data", "where data sets that are made here are kept", str, metavar="FOLDER")
