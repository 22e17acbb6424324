"""All measures of a set of backbones, and the tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from examples.backbones.chains import compactness
from examples.backbones.measures import designs, folds, local
from examples.backbones.measures.secondary import HELIX, STRAND, left_handed, secondary_structure

INFORMATIVE = 1.2  # nats: what I is of natural chains, and not of polymers
# What a table calls each measure, and its digits; in this order.
ROWS = {
    "ca_steps": ("CA–CA 3.80 ± 0.1 Å, share", 3),
    "bonds": ("bonds N–CA, CA–C, C–N: off the ideal, Å", 3),
    "junction_bonds": ("C–N alone, Å", 3),
    "angles": ("angles N–CA–C, CA–C–N, C–N–CA: off the ideal, °", 1),
    "junction_angles": ("CA–C–N and C–N–CA alone, °", 1),
    "planar": ("ω within 30° of 180°, share", 3),
    "ramachandran": ("in the Ramachandran region of 90 % of training residues", 3),
    "ca_clashes": ("clashes of CA per 100 residues", 2),
    "atom_clashes": ("clashes of atoms per 100 residues", 2),
    "helix": ("helix, right-handed, share", 2),
    "strand": ("strand, share", 2),
    "regular": ("helix + strand", 2),
    "left_handed": ("left-handed share of helices", 3),
    "compactness": ("Rg / (2.2 N^0.38 Å)", 2),
    "contacts": ("long-range contacts per residue", 2),
    "nearest_mean": ("TM of the nearest training chain, mean", 2),
    "nearest_max": ("TM of the nearest training chain, highest", 2),
    "pairwise": ("TM of pairs of one length, mean", 2),
    "information": ("I, nats", 2),
    "informative": (f"chains with I > {INFORMATIVE}, share", 2),
    "likelihood": ("−ln p of designed sequences, nats", 2),
}


def measure(
    backbones: Sequence[Tensor], train: Sequence[Tensor], region: local.Ramachandran, sequences: bool
) -> list[dict[str, float]]:
    """What is measured of each of some backbones, to be summed up by `summary`.

    Args:
        backbones: (residues, 4, 3) each, of any lengths.
        train: the training chains, for the nearest one of each backbone.
        region: of φ and ψ.
        sequences: whether to have ProteinMPNN design sequences.
    """
    rows = [_measure_one(x, train, region) for x in backbones]
    others = [
        [other for k, other in enumerate(backbones) if k < i and len(other) == len(x)] for i, x in enumerate(backbones)
    ]
    for row, x, earlier in zip(rows, backbones, others, strict=True):
        row["pairs"], row["pairs_tm"] = len(earlier), sum(folds.tm_score(x, other) for other in earlier)
    if sequences:
        for row, made in zip(rows, designs.design(backbones), strict=True):
            row["information"], row["likelihood"] = made.information, float(np.mean(made.likelihoods))
    return rows


def _measure_one(x: Tensor, train: Sequence[Tensor], region: local.Ramachandran) -> dict[str, float]:
    structure = secondary_structure(x)
    wrong = left_handed(x, structure)
    return {
        "residues": len(x),
        "ca_steps": local.ca_steps(x),
        "bonds": local.bond_deviation(x),
        "junction_bonds": local.bond_deviation(x, local.JUNCTION_BONDS),
        "angles": local.angle_deviation(x),
        "junction_angles": local.angle_deviation(x, local.JUNCTION_ANGLES),
        "planar": local.planar(x),
        "ramachandran": region.inside(x),
        "ca_clashes": local.ca_clashes(x),
        "atom_clashes": local.atom_clashes(x),
        "helix": float(((structure == HELIX) & ~wrong).mean()),
        "strand": float((structure == STRAND).mean()),
        "any_helix": float((structure == HELIX).sum()),  # residues
        "wrong_helix": float(wrong.sum()),
        "compactness": float(compactness(x)),
        "contacts": local.long_range_contacts(x),
        "nearest": folds.nearest(x, train)[1],
    }


def summary(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of what `measure` found, by the names of `ROWS`: over backbones, residues of helices, and pairs."""
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    found = {key: float(values.mean()) for key, values in columns.items()}
    found["regular"] = found["helix"] + found["strand"]
    found["left_handed"] = float(columns["wrong_helix"].sum() / max(columns["any_helix"].sum(), 1))
    found["nearest_mean"], found["nearest_max"] = found["nearest"], float(columns["nearest"].max())
    if columns["pairs"].sum():
        found["pairwise"] = float(columns["pairs_tm"].sum() / columns["pairs"].sum())
    if "information" in columns:
        found["informative"] = float((columns["information"] > INFORMATIVE).mean())
    return {key: found[key] for key in ROWS if key in found}


def markdown(columns: Mapping[str, Mapping[str, float]], rows: Mapping[str, tuple[str, int]] = ROWS) -> str:
    """A table of figures side by side, of rows with a title and digits."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for key, (title, digits) in rows.items():
        if any(key in column for column in columns.values()):
            cells = (f"{column[key]:.{digits}f}" if key in column else "" for column in columns.values())
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
