"""Structures that readers of the site can turn: 3Dmol.js draws them, a picture stands where there are no scripts."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.neighborlist import natural_cutoffs, neighbor_list
from matplotlib import colormaps
from matplotlib.figure import Figure

BOND = "#8a8f98"  # seen on white and on black


@dataclass(frozen=True)
class Turnable:
    """A notebook's output: a molecule, a crystal or a backbone, with what there is to say of it."""

    atoms: Atoms
    caption: str
    chain: bool = False
    """Each atom is bonded to the next, however far away: a backbone. Otherwise by distance."""

    def _repr_html_(self) -> str:
        picture = b64encode(draw(self.atoms, self.chain)).decode()
        data = json.dumps({"xyz": xyz(self.atoms), "cell": cell_edges(self.atoms), "chain": self.chain})
        caption = html.escape(self.caption)
        return (
            f'<figure class="structure"><div class="stage"><img alt="{caption}"'
            f' src="data:image/svg+xml;base64,{picture}"></div>'
            f'<script type="application/json">{data}</script><figcaption>{caption}</figcaption></figure>'
        )


def xyz(atoms: Atoms) -> str:
    """As 3Dmol.js reads it."""
    lines = [
        f"{symbol} {x:.4f} {y:.4f} {z:.4f}"
        for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    return "\n".join([str(len(atoms)), "", *lines])


def cell_edges(atoms: Atoms) -> list[list[dict[str, float]]]:
    """The twelve edges of a cell as pairs of ends; none without a cell."""
    if atoms.cell.rank < 3:
        return []
    corners = np.array(list(np.ndindex(2, 2, 2)))
    found = []
    for low in corners:
        for axis in range(3):
            if low[axis] == 0:
                high = low + np.eye(3, dtype=int)[axis]
                ends = np.stack((low, high)) @ atoms.cell.array
                found.append([dict(zip("xyz", map(float, end), strict=True)) for end in ends])
    return found


def draw(atoms: Atoms, chain: bool) -> bytes:
    """An SVG: balls and sticks, or a chain from blue to red, from where the structure is widest, what is far first."""
    view = np.linalg.svd(atoms.positions - atoms.positions.mean(0), full_matrices=False)[2]
    points = (atoms.positions - atoms.positions.mean(0)) @ view.T
    figure = Figure(figsize=(7, 4))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    open_atoms = Atoms(atoms.numbers, atoms.positions)  # bonds to images are not drawn
    bonds = [(i, i + 1) for i in range(len(atoms) - 1)]
    if not chain:
        pairs = zip(
            *neighbor_list("ij", open_atoms, [1.1 * radius for radius in natural_cutoffs(open_atoms)]), strict=True
        )
        bonds = [(i, j) for i, j in pairs if i < j]
    for number, (i, j) in enumerate(bonds):
        colour = colormaps["turbo"](0.1 + 0.8 * number / len(bonds)) if chain else BOND
        axes.plot(*points[[i, j], :2].T, color=colour, linewidth=3, zorder=points[[i, j], 2].mean())
    for ends in cell_edges(atoms):
        line = np.array([[end[axis] for axis in "xyz"] for end in ends])
        axes.plot(*((line - atoms.positions.mean(0)) @ view.T)[:, :2].T, color=BOND, linewidth=0.8)
    for number, (x, y, z) in () if chain else zip(atoms.numbers, points, strict=True):
        size = 320 * covalent_radii[number] * min(1.0, 40 / len(atoms))
        axes.scatter(x, y, s=size, color=jmol_colors[number], edgecolors=BOND, linewidths=0.8, zorder=z + 0.1)
    axes.set_aspect("equal")
    axes.margins(0.1)
    axes.set_axis_off()
    file = BytesIO()
    figure.savefig(file, format="svg", transparent=True)
    return file.getvalue()
